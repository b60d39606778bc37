# SPDX-License-Identifier: Apache-2.0
"""Deterministic weights and inputs of the golden vectors, and builders of small networks for tests."""

import numpy as np
import torch

from cosmos1.checkpoint.layouts import from_native, to_native
from cosmos1.models.diffusion.config import DiTConfig
from cosmos1.parallel import process_groups
from cosmos1.parallel.strategy import MegatronStrategy


def stream(index: int, shape: tuple[int, ...]) -> np.ndarray:
    """Values in [-0.5, 0.5) of a counter-based generator (splitmix64), float64."""
    with np.errstate(over="ignore"):
        z = np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64) + np.uint64(index * 1000003)
        z = z * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return ((z >> np.uint64(40)).astype(np.float64) / 2**24 - 0.5).reshape(shape)


def tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32))


def tiny_config(condition_mask: bool = False, **changes) -> DiTConfig:
    return DiTConfig(hidden_size=256, num_layers=2, num_attention_heads=2, condition_mask=condition_mask, **changes)


def build_network(config: DiTConfig, strategy: MegatronStrategy | None = None, initialise: bool = True):
    """A whole fp32 network on the CPU in a process group of its own (or of torchrun's processes)."""
    strategy = strategy or MegatronStrategy()
    process_groups.initialize(strategy)
    from megatron.core.process_groups_config import ProcessGroupCollection

    from cosmos1.models.diffusion.initialization import initialize
    from cosmos1.models.diffusion.megatron_config import megatron_config
    from cosmos1.models.diffusion.network import DiT

    megatron = megatron_config(config, strategy, torch.float32, torch.device("cpu"))
    network = DiT(megatron, ProcessGroupCollection.use_mpu_process_groups())
    if initialise:
        initialize(network, seed=0)
    return network


def golden_weights(config: DiTConfig) -> dict[str, torch.Tensor]:
    """Official keys to the values of the golden vectors (fill rule: stream = position in the sorted key list)."""
    network = build_network(config)
    own = {name: value for name, value in network.state_dict().items() if not name.startswith("logvar.")}
    shapes = {k: v.shape for k, v in from_native(own, "official").items()}
    weights = {}
    for position, name in enumerate(sorted(shapes)):
        u = stream(position, tuple(shapes[name]))
        if name == "affline_norm.weight" or name.endswith((".to_q.1.weight", ".to_k.1.weight")):
            value = 1 + 0.2 * u
        elif name.endswith("bias") or ".pos_emb_" in name:
            value = 2 * u
        else:
            value = 2 * np.sqrt(3 / shapes[name][-1]) * u
        weights[name] = tensor(value)
    return weights


def load_official(network, config: DiTConfig, weights: dict[str, torch.Tensor]) -> None:
    """Load whole official weights, keeping this tensor-parallel rank's part."""
    from megatron.core import parallel_state

    from cosmos1.models.initialization import tensor_parallel_axis

    rank = parallel_state.get_tensor_model_parallel_rank()
    size = parallel_state.get_tensor_model_parallel_world_size()
    own = to_native(weights)
    for name, parameter in network.named_parameters():
        if name.startswith("logvar."):
            continue
        axis = tensor_parallel_axis(name)
        parameter.data.copy_(own[name] if axis is None else own[name].chunk(size, dim=axis)[rank])


def golden_inputs() -> dict[str, torch.Tensor]:
    padding_mask = torch.zeros(1, 1, 64, 96)
    padding_mask[..., 80:] = 1
    return {
        "x_BCTHW": tensor(2 * stream(900, (1, 16, 3, 8, 12))),
        "timesteps_B": torch.tensor([0.7]),
        "text_BME": tensor(2 * stream(901, (1, 20, 1024))),
        "fps_B": torch.tensor([24.0]),
        "padding_mask_B1HW": padding_mask,
    }


def condition_mask(frames: int = 3) -> torch.Tensor:
    mask = torch.zeros(1, 1, frames, 8, 12)
    mask[:, :, 0] = 1
    return mask
