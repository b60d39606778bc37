# SPDX-License-Identifier: Apache-2.0
"""The values of a training run: what ``trainer.*``, ``optim.*``, ``log.*`` and ``resume.*`` of a recipe mean.

Building them touches no device, network or environment. Annotations stay in the form that nemo_run's command line reads.
"""

from dataclasses import dataclass, field
from typing import Any, List, Literal, Optional

from cosmos1.errors import ConfigError
from cosmos1.parallel.strategy import MegatronStrategy


@dataclass
class OptimizerConfig:
    """AdamW with decoupled weight decay; no decay on biases and one-dimensional parameters (Megatron's rule)."""

    lr: float = 1e-6
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_eps: float = 1e-8
    clip_grad: float = 1.0
    """Largest global gradient norm; 0 turns clipping off (the norm is still logged)."""


@dataclass
class LRScheduler:
    """Learning rate by step: linear warm-up from ``warmup_ratio * lr``, then one of four courses.

    ``constant`` and ``warmup_hold`` stay at ``lr``; ``cosine`` and ``annealing`` (linear) stay for ``hold_steps``, then
    fall to ``min_lr`` at ``decay_steps`` (the trainer's ``max_steps`` if not given) and stay there.
    """

    policy: Literal["constant", "warmup_hold", "cosine", "annealing"] = "constant"
    warmup_steps: int = 0
    warmup_ratio: float = 0.0
    hold_steps: int = 0
    decay_steps: Optional[int] = None
    min_lr: float = 0.0


@dataclass
class NewLayers:
    """Layers that a task adds to a trained network, or makes anew: they may learn faster, and alone at first.

    While they are alone, all other weights have learning rate 0: they stay as they are, bit for bit. The gradient norm
    always is that of the whole network.
    """

    names: List[str] = field(default_factory=list)
    """Beginnings of the names of their weights, for example ["x_embedder.", "action."]."""
    lr_multiplier: float = 1.0
    alone_steps: int = 0
    """Train nothing else for so many steps."""

    def validate(self) -> None:
        if self.lr_multiplier <= 0:
            raise ConfigError(f"optim.new_layers.lr_multiplier={self.lr_multiplier}; it must be positive")
        if self.alone_steps < 0:
            raise ConfigError(f"optim.new_layers.alone_steps={self.alone_steps}; it must be 0 or more")
        if not self.names and (self.alone_steps or self.lr_multiplier != 1):
            raise ConfigError(
                "optim.new_layers.lr_multiplier and alone_steps need optim.new_layers.names, the layers they are for"
            )


@dataclass
class MegatronOptimizer:
    config: OptimizerConfig = field(default_factory=OptimizerConfig)
    lr_scheduler: LRScheduler = field(default_factory=LRScheduler)
    new_layers: NewLayers = field(default_factory=NewLayers)
    ema_widths: List[float] = field(default_factory=list)
    """Relative widths of power-function EMA copies of the weights, for example [0.1]; empty: none."""

    def validate(self) -> None:
        config, schedule = self.config, self.lr_scheduler
        if config.lr <= 0:
            raise ConfigError(f"optim.config.lr={config.lr} trains nothing; give a positive learning rate")
        if schedule.warmup_steps < 0 or schedule.hold_steps < 0:
            raise ConfigError("optim.lr_scheduler.warmup_steps and hold_steps must be 0 or more")
        if schedule.min_lr > config.lr:
            raise ConfigError(f"optim.lr_scheduler.min_lr={schedule.min_lr} exceeds optim.config.lr={config.lr}")
        if any(not 0 < width < 0.28 for width in self.ema_widths):
            raise ConfigError(
                f"optim.ema_widths={self.ema_widths}; each relative width must lie between 0 and 0.28 (0.1 is usual)"
            )
        self.new_layers.validate()

    def describe(self) -> List[str]:
        """Facts for the log."""
        new = self.new_layers
        if not new.names:
            return []
        alone = f", alone until step {new.alone_steps}" if new.alone_steps else ""
        return [f"new layers {', '.join(new.names)}: learning rate x {new.lr_multiplier:g}{alone}"]


@dataclass
class HangDetection:
    """When a run counts as hung. It then writes the stacks of all ranks, says who is behind, and ends with status 75."""

    factor: float = 20.0
    """A step may take this many times the median step; 0 turns hang detection off."""
    floor_s: float = 300.0
    """But never less than this is allowed, in seconds."""
    patience_s: float = 1800.0
    """Seconds allowed for the first three steps (they compile), a validation, a save, a callback."""

    def validate(self) -> None:
        if self.factor != 0 and self.factor < 2:
            raise ConfigError(f"trainer.hang.factor={self.factor}; use 2 or more (20 is usual), or 0 to turn it off")
        if self.floor_s <= 0 or self.patience_s < self.floor_s:
            raise ConfigError(
                f"trainer.hang.floor_s={self.floor_s}, patience_s={self.patience_s}; both are seconds above 0, and patience_s "
                "must not be the smaller one"
            )


@dataclass
class SpikePolicy:
    """Skips steps whose gradient is far larger than those before. Off by default."""

    factor: Optional[float] = None
    """Skip a step whose global gradient norm exceeds this many times the running median; None skips none (10 is usual)."""
    window: int = 100
    """The median is taken over so many applied steps; nothing is skipped before a fifth of them."""

    def validate(self) -> None:
        if self.factor is not None and self.factor <= 1:
            raise ConfigError(
                f"trainer.spike.factor={self.factor}; use more than 1 (10 is usual), or None to skip no step"
            )
        if self.window < 5:
            raise ConfigError(f"trainer.spike.window={self.window}; it must be 5 or more steps")


@dataclass
class Trainer:
    """How long and how often, in optimizer steps."""

    max_steps: int = 1000
    num_nodes: int = 1
    devices: int = 1
    """Processes per node that the recipe is meant for; torchrun decides how many there are."""
    strategy: MegatronStrategy = field(default_factory=MegatronStrategy)
    precision: Literal["bf16", "fp32"] = "bf16"
    """bf16 computes in bf16 and keeps fp32 master weights."""
    log_every_n_steps: int = 10
    val_check_interval: int = 100
    """Validate every n steps; 0 never validates."""
    limit_val_batches: int = 8
    callbacks: List[Any] = field(default_factory=list)
    max_bad_steps: int = 10
    """Stop after this many consecutive bad steps: gradients that are NaN or infinite, or that ``spike`` refuses. Each one is
    skipped and counted."""
    spike: SpikePolicy = field(default_factory=SpikePolicy)
    hang: HangDetection = field(default_factory=HangDetection)
    straggler_percent: float = 25.0
    """Name ranks that are slower than the median by more than this in two log intervals in a row; 0 compares none."""
    seed: int = 1234

    def validate(self) -> None:
        at_least = {"max_steps": 1, "log_every_n_steps": 1, "max_bad_steps": 1, "num_nodes": 1, "devices": 1}
        at_least |= {"val_check_interval": 0, "limit_val_batches": 0, "straggler_percent": 0}
        for name, least in at_least.items():
            if getattr(self, name) < least:
                raise ConfigError(f"trainer.{name}={getattr(self, name)}; it must be {least} or more")
        self.spike.validate()
        self.hang.validate()


@dataclass
class Checkpointing:
    """When checkpoints are written and which are kept."""

    every_n_train_steps: int = 200
    keep_last_k: int = 2
    """Newest checkpoints kept; -1 keeps all."""
    keep_every_n_steps: Optional[int] = None
    """Checkpoints at multiples of this are never deleted."""
    async_save: bool = True
    """Write in the background while training goes on."""
    save_last: bool = True
    """Also save when the run ends."""
    max_failed_saves: int = 10
    """End the run when so many saves in a row have failed; until then training goes on and a save is tried every minute."""

    def validate(self) -> None:
        if self.max_failed_saves < 1:
            raise ConfigError(f"log.ckpt.max_failed_saves={self.max_failed_saves}; it must be 1 or more")
        if self.every_n_train_steps < 1:
            raise ConfigError(f"log.ckpt.every_n_train_steps={self.every_n_train_steps}; it must be 1 or more")
        if self.keep_every_n_steps is not None and self.keep_every_n_steps < 1:
            raise ConfigError(f"log.ckpt.keep_every_n_steps={self.keep_every_n_steps}; use 1 or more, or None")
        if self.keep_last_k == 0 or self.keep_last_k < -1:
            raise ConfigError(f"log.ckpt.keep_last_k={self.keep_last_k}; use 1 or more, or -1 to keep all")


@dataclass
class Logger:
    """The run folder is ``<log_dir>/<name>/<version>``."""

    log_dir: str = "nemo_experiments"
    name: str = "default"
    version: Optional[str] = None
    """Name of the run; the newest existing one when resuming, otherwise the time at the start."""
    ckpt: Checkpointing = field(default_factory=Checkpointing)


@dataclass
class RestoreConfig:
    """Weights to start from."""

    path: str = ""
    """A checkpoint or run folder of this suite, a model.pt, a diffusers folder, a NeMo checkpoint, or a Hugging Face id
    (``nvidia/Cosmos-1.0-Diffusion-7B-Text2World``), which is fetched when the run starts."""
    ema: Optional[int] = None
    """Take this EMA copy instead of the trained weights."""
    allow_missing: List[str] = field(default_factory=list)
    """Prefixes of weights that the checkpoint may lack (layers that a task adds); they keep their initial values."""
    reinitialize: List[str] = field(default_factory=list)
    """Prefixes of weights that are not taken from the checkpoint although it has them."""


@dataclass
class AutoResume:
    resume_if_exists: bool = True
    """Continue the newest complete checkpoint of the run folder, with optimizer, data and schedule."""
    restore_config: Optional[RestoreConfig] = None
