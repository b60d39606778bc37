# SPDX-License-Identifier: Apache-2.0
"""What the trainer needs to know of an autoregressive world model: how to build it, feed it, and score it."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import List, Literal, Optional

from cosmos1.conditioning.settings import NUM_POINTS, signals
from cosmos1.errors import ConfigError, DataError
from cosmos1.models.autoregressive.config import GPTConfig
from cosmos1.models.autoregressive.objective_config import NextTokenObjective
from cosmos1.parallel.strategy import choose_cp_mode


@dataclass
class AutoregressiveModel:
    """A video GPT and its training objective, as plain values.

    ``tokenizer`` names what the tokens were made with, ``compression_factor`` its pixels per token along time, height
    and width; videos are decoded with it.
    """

    config: GPTConfig = field(default_factory=GPTConfig)
    objective: NextTokenObjective = field(default_factory=NextTokenObjective)
    tokenizer: Literal["dct_fsq", "cosmos_dv"] = "cosmos_dv"
    tokenizer_path: Optional[str] = None
    compression_factor: List[int] = field(default_factory=lambda: [8, 16, 16])
    single_frames: bool = False
    """Each latent frame is one picture, encoded and decoded alone (action control)."""

    def validate(self, strategy, world_size: int) -> None:
        """Raise :class:`ConfigError` for what can be refused before anything is allocated."""
        config, tp_size = self.config, strategy.tensor_model_parallel_size
        config.validate()
        self.objective.validate(config.latent_shape[0])
        if config.camera is not None and config.camera.frames_per_token != self.compression_factor[0]:
            raise ConfigError(
                f"model.config.camera.frames_per_token={config.camera.frames_per_token}, but a token of the tokenizer has "
                f"{self.compression_factor[0]} frames (model.compression_factor); set it to that"
            )
        strategy.validate(world_size, config.num_layers, config.num_attention_heads)
        split = {
            "num_query_groups": config.num_query_groups,
            "ffn_hidden_size": config.ffn_hidden_size,
            "vocab_size": config.vocab_size,
            "vocab_size + num_special_tokens": config.embedding_rows,
        }
        for name, size in split.items():
            if size % tp_size:
                raise ConfigError(
                    f"trainer.strategy.tensor_model_parallel_size={tp_size} does not divide model.config.{name} ({size}) "
                    f"of the network; use a divisor of {config.num_query_groups} (key and value heads), or "
                    "context_parallel_size or fsdp instead"
                )
        choose_cp_mode(config.context_parallel_mode, config.num_query_groups // tp_size, strategy.context_parallel_size)

    def validate_sample(self, strategy, sample_shape: List[int], num_views: int = 1) -> None:
        """Raise if samples (latent grid ``[T, H, W]``, with several views ``[T, V, H, W]``, or ``[S]`` tokens of unknown
        grid) do not fit network or layout."""
        config = self.config
        fits = sample_shape in (config.token_grid, [config.num_video_tokens], [config.sequence_length])
        if not fits or num_views not in (1, config.num_views):
            raise DataError(
                f"the data has samples of {_grid(sample_shape)} tokens, the network expects {_grid(config.token_grid)} "
                f"({config.num_video_tokens}); set model.config.latent_shape (and views.num_views) to the data's grid, or "
                "prepare clips of another size"
            )
        strategy.validate_tokens(config.sequence_length)

    def describe(self) -> List[str]:
        """Facts for the log, with the sequence arithmetic."""
        c, o = self.config, self.objective
        task = "Video2World" if c.video2world else "base"
        sequence = f"sequence: {_grid(c.token_grid)} = {c.num_video_tokens} video tokens"
        if c.video2world:
            padding = c.sequence_length - c.num_video_tokens - 1
            sequence += f" + 1 that begins the video + {padding} of padding = {c.sequence_length}"
        yarn = f", YaRN x{c.yarn_scale:g}" if c.yarn_scale is not None else ""
        lines = [
            f"network: {task} GPT, {c.num_layers} layers, width {c.hidden_size}, {c.num_attention_heads} heads in "
            f"{c.num_query_groups} groups, {c.vocab_size} codes{yarn}",
            sequence,
            f"loss: cross entropy of every token after the first {o.num_unscored_frames} latent frames; a guess among all "
            f"codes would be ln({c.vocab_size}) nats",
        ]
        if c.reads_text:
            lines.append(f"text dropout {o.text_dropout:g}")
        if o.token_corruption:
            lines.append(f"read wrong: {100 * o.token_corruption:g} % of the tokens after the given frames, on average")
        return lines + [f"control signal: {settings}" for settings in signals(c)]

    def megatron_config(self, strategy, params_dtype, device):
        from cosmos1.models.autoregressive.megatron_config import megatron_config

        return megatron_config(self.config, strategy, params_dtype, device)

    def build(self, megatron_config, pre_process: bool, post_process: bool, vp_stage: Optional[int], seed: int):
        """One pipeline chunk of the network with its initial weights."""
        from megatron.core.process_groups_config import ProcessGroupCollection

        from cosmos1.models.autoregressive.initialization import initialize
        from cosmos1.models.autoregressive.network import GPT

        groups = ProcessGroupCollection.use_mpu_process_groups()
        network = GPT(megatron_config, groups, pre_process, post_process, vp_stage)
        initialize(network, seed)
        return network

    def initial_values(self, network, seed: int, names: Optional[Collection[str]] = None):
        """``(local name, tensor, fp32 value, axis)`` of the parameters and buffers of a pipeline chunk: of all, or of those
        with ``names`` in the whole network."""
        from cosmos1.models.autoregressive.initialization import initial_values

        return initial_values(network, seed, names)

    def prepare(self, batch: dict, seed: int, device, training: bool):
        """A collated batch to a :class:`~cosmos1.models.autoregressive.objective.TokenSample` on ``device``."""
        from cosmos1.models.autoregressive.objective import make_token_sample

        return make_token_sample(self.config, self.objective, batch, seed, device, training)

    def forward(self, network, sample):
        """The score of every token, or hidden states on pipeline stages before the last."""
        return network(sample.tokens, sample.text, sample.labels, sample.controls)

    def loss(self, network, sample, prediction):
        """``(scalar loss, {"sums": metrics to add up})`` on the last pipeline stage."""
        from cosmos1.models.autoregressive.objective import metric_sums, next_token_loss

        per_sample = next_token_loss(sample, prediction)
        return per_sample.mean(), {"sums": metric_sums(per_sample, sample, prediction)}

    @property
    def num_sums(self) -> int:
        from cosmos1.models.autoregressive.objective import NUM_SUMS

        return NUM_SUMS

    def summarize(self, sums: List[float]) -> dict:
        """``loss``, ``perplexity`` and ``token_accuracy`` from summed metrics."""
        from cosmos1.models.autoregressive.objective import summarize

        return summarize(sums)

    def batch_size(self, batch) -> int:
        """Samples of a collated batch or of a prepared one."""
        return len(batch["tokens"] if isinstance(batch, dict) else batch.tokens)

    def num_tokens(self, batch: dict) -> int:
        """Tokens of one sample of the batch."""
        return batch["tokens"].shape[1]

    def training_flops(self, batch: dict, frozen: bool) -> float:
        """Model FLOPs of one training step of one sample; of a ``frozen`` network without gradients of weights."""
        from cosmos1.models.autoregressive.flops import training_flops

        config, text = self.config, batch.get("t5_text_embeddings")
        num_rows = 0 if text is None else text.shape[1]
        if config.action is not None:
            num_rows = config.action.num_actions
        if config.trajectory is not None:
            num_rows += NUM_POINTS
        return training_flops(config, self.num_tokens(batch), num_rows, frozen)


def _grid(shape: List[int]) -> str:
    return " x ".join(map(str, shape))
