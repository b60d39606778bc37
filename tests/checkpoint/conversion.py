# SPDX-License-Identifier: Apache-2.0
"""Small networks of both kinds as official weights, and ways to compare what comes out of a conversion."""

import torch

from cosmos1.checkpoint.convert import ConvertOptions, convert
from cosmos1.checkpoint.families.diffusion import rope_scale
from cosmos1.checkpoint.formats import open_weights
from cosmos1.checkpoint.layouts import from_native
from cosmos1.checkpoint.networks import expected_shapes, family_of
from cosmos1.models.autoregressive.config import GPTConfig
from cosmos1.models.diffusion.config import DiTConfig

KINDS = [(ratio, condition) for ratio in (1.0, 2.0) for condition in (False, True)]
NAMES = ["7b-text2world", "7b-video2world", "14b-text2world", "14b-video2world"]


def small_config(ratio: float, condition: bool, **changes) -> DiTConfig:
    """7B-like (``ratio`` 1) or 14B-like (2) rotary positions."""
    sizes = {"hidden_size": 64, "num_layers": 3, "num_attention_heads": 4, "adaln_lora_dim": 8} | changes
    return DiTConfig(
        condition_mask=condition, rope_h_extrapolation_ratio=ratio, rope_w_extrapolation_ratio=ratio, **sizes
    )


def small_gpt(video2world: bool, **changes) -> GPTConfig:
    """Heads wider than ``hidden_size / num_attention_heads``, three query heads to a group."""
    sizes = {"hidden_size": 40, "num_layers": 3, "num_attention_heads": 6, "num_query_groups": 2, "head_dim": 12}
    sizes |= {"ffn_hidden_size": 56, "vocab_size": 48}
    sizes |= {"num_special_tokens": 8, "text_embedding_dim": 20} if video2world else {}
    return GPTConfig(video2world=video2world, latent_shape=[2, 3, 4], yarn_scale=2.0, **sizes | changes)


def official_weights(config, seed: int = 0, logvar: bool = True) -> dict[str, torch.Tensor]:
    """Random values in the layout of ``model.pt``: bf16, the uncertainty head of a DiT in fp32."""
    generator = torch.Generator().manual_seed(seed)
    native = {name: torch.randn(shape, generator=generator) for name, shape in expected_shapes(config).items()}
    official, prefix = from_native(native, "official"), family_of(config).official_prefix
    named = {prefix + name: tensor.bfloat16() for name, tensor in official.items() if not name.startswith("logvar.")}
    return named | ({n: t for n, t in official.items() if n.startswith("logvar.")} if logvar else {})


def save_official(path, config, **options) -> dict[str, torch.Tensor]:
    weights = official_weights(config, **options)
    ignored = {
        f"{family_of(config).official_prefix}pos_embedder.seq": torch.arange(128.0),
        "x._extra_state": torch.zeros(1),
    }
    torch.save(weights | ignored, path)
    return weights


def converted(source, destination, target: str, config, **options):
    """Convert, and say what leaves no trace in the weights."""
    if isinstance(config, DiTConfig):
        options["rope_scale"] = rope_scale(config)
    else:
        options |= {"latent_shape": tuple(config.latent_shape), "yarn_scale": config.yarn_scale}
    convert(source, destination, target, ConvertOptions(**options))
    return destination


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Equal names, dtypes and bits."""
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


def native_values(path, ema: int | None = None) -> dict[str, torch.Tensor]:
    return {name: tensor.load() for name, tensor in open_weights(path, ema).tensors.items()}
