# SPDX-License-Identifier: Apache-2.0
"""Small networks of both kinds as official weights, and ways to compare what comes out of a conversion."""

import torch

from cosmos1.checkpoint.convert import ConvertOptions, convert
from cosmos1.checkpoint.formats import open_weights
from cosmos1.checkpoint.layouts import from_native
from cosmos1.checkpoint.networks import expected_shapes, rope_scale
from cosmos1.models.diffusion.config import DiTConfig

KINDS = [(ratio, condition) for ratio in (1.0, 2.0) for condition in (False, True)]
NAMES = ["7b-text2world", "7b-video2world", "14b-text2world", "14b-video2world"]


def small_config(ratio: float, condition: bool, **changes) -> DiTConfig:
    """7B-like (``ratio`` 1) or 14B-like (2) rotary positions."""
    sizes = {"hidden_size": 64, "num_layers": 3, "num_attention_heads": 4, "adaln_lora_dim": 8} | changes
    return DiTConfig(
        condition_mask=condition, rope_h_extrapolation_ratio=ratio, rope_w_extrapolation_ratio=ratio, **sizes
    )


def official_weights(config: DiTConfig, seed: int = 0, logvar: bool = True) -> dict[str, torch.Tensor]:
    """Random values in the layout of ``model.pt``: bf16, the uncertainty head in fp32."""
    generator = torch.Generator().manual_seed(seed)
    native = {name: torch.randn(shape, generator=generator) for name, shape in expected_shapes(config).items()}
    official = from_native(native, "official", config.num_layers, config.head_dim)
    named = {f"net.{name}": tensor.bfloat16() for name, tensor in official.items() if not name.startswith("logvar.")}
    return named | ({name: t for name, t in official.items() if name.startswith("logvar.")} if logvar else {})


def save_official(path, config: DiTConfig, **options) -> dict[str, torch.Tensor]:
    weights = official_weights(config, **options)
    torch.save(weights | {"net.pos_embedder.seq": torch.arange(128.0)}, path)
    return weights


def converted(source, destination, target: str, config: DiTConfig, **options):
    convert(source, destination, target, ConvertOptions(rope_scale=rope_scale(config), **options))
    return destination


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Equal names, dtypes and bits."""
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


def native_values(path, ema: int | None = None) -> dict[str, torch.Tensor]:
    return {name: tensor.load() for name, tensor in open_weights(path, ema).tensors.items()}
