# SPDX-License-Identifier: Apache-2.0
"""The network against golden vectors of the reference networks, against diffusers, and against closed forms."""

import math

import pytest
import torch

from cosmos1.checkpoint.layouts import from_native, to_native
from cosmos1.models.diffusion.config import dit_config
from cosmos1.models.diffusion.positions import TokenGrid, rotary_angles
from tests.models.reference import (
    build_network,
    condition_mask,
    golden_inputs,
    golden_weights,
    load_official,
    tiny_config,
)

GOLDEN = {
    "text2world": (0.107018, 1.602867, 4.890387, {0: -3.692111, 1: 1.501478, 1536: 0.628075, 2304: 0.675231, 4607: -0.511778}),
    "fps30": (0.107197, 1.602299, 4.875045, {0: -3.687984, 1: 1.509778, 1536: 0.629036, 2304: 0.675967, 4607: -0.508158}),
    "ratios2": (0.107206, 1.602827, 4.888062, {0: -3.695583, 1: 1.494873, 1536: 0.630451, 2304: 0.677856, 4607: -0.508060}),
    "video2world": (0.108350, 1.615768, 5.729270, {0: -3.219097, 1: 1.714791, 1536: 1.478633, 2304: 0.921607, 4607: -0.265602}),
}  # fmt: skip


@pytest.mark.parametrize("case", GOLDEN)
def test_golden_vector(case):
    ratios = {"rope_h_extrapolation_ratio": 2.0, "rope_w_extrapolation_ratio": 2.0} if case == "ratios2" else {}
    config = tiny_config(condition_mask=case == "video2world", **ratios)
    network = build_network(config)
    load_official(network, config, golden_weights(config))
    inputs = golden_inputs()
    if case == "fps30":
        inputs["fps_B"] = torch.tensor([30.0])
    if case == "video2world":
        inputs["condition_mask_B1THW"] = condition_mask()
    with torch.no_grad():
        output = network(**inputs)
    mean, std, largest, elements = GOLDEN[case]
    assert output.shape == (1, 16, 3, 8, 12)
    assert output.mean().item() == pytest.approx(mean, abs=1e-5)
    assert output.std(unbiased=False).item() == pytest.approx(std, abs=1e-5)
    assert output.abs().max().item() == pytest.approx(largest, abs=1e-4)
    for index, value in elements.items():
        assert output.flatten()[index].item() == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize(
    "size, fps, dtype, expected",
    [
        ("7b", 24, "fp32", [5, 3.182857, 0.00038, 7, 4.514627, 0.001085, 11, 7.094414, 0.001706]),
        ("7b", 30, "fp32", [4, 2.546285, 0.000304, 7, 4.514627, 0.001085, 11, 7.094414, 0.001706]),
        ("14b", 24, "fp32", [5, 3.182857, 0.00038, 7, 4.360842, 0.000543, 11, 6.852752, 0.000853]),
        ("7b", 24, "bf16", [5, 3.1875, 0.000385, 7, 4.5, 0.001076, 11, 7.09375, 0.001686]),
    ],
)
def test_rotary_angles_of_frame_5_row_7_column_11(size, fps, dtype, expected):
    config = dit_config(size, condition_mask=False)
    config.rope_table_dtype = dtype
    grid = TokenGrid(16, 44, 80)
    token = 5 * 44 * 80 + 7 * 80 + 11
    angles = rotary_angles(config, grid, token, token + 1, fps, "cpu")[0]
    found = [angles[channel].item() for channel in (0, 1, 21, 22, 23, 42, 43, 44, 63)]
    assert found == pytest.approx(expected, rel=2e-3 if dtype == "bf16" else 1e-4, abs=5e-7)


@pytest.mark.parametrize(
    "size, condition, count",
    [
        ("7b", False, 7_236_192_256),
        ("7b", True, 7_236_208_640),
        ("14b", False, 14_267_149_312),
        ("14b", True, 14_267_169_792),
    ],
)
def test_parameter_count(size, condition, count):
    with torch.device("meta"):
        config = dit_config(size, condition)
        network = build_meta_network(config)
    assert sum(p.numel() for name, p in network.named_parameters() if not name.startswith("logvar.")) == count


def build_meta_network(config):
    from megatron.core.process_groups_config import ProcessGroupCollection

    from cosmos1.models.diffusion.megatron_config import megatron_config
    from cosmos1.models.diffusion.network import DiT
    from cosmos1.parallel import process_groups
    from cosmos1.parallel.strategy import MegatronStrategy

    process_groups.initialize(MegatronStrategy())
    megatron = megatron_config(config, MegatronStrategy(), torch.float32, torch.device("meta"))
    return DiT(megatron, ProcessGroupCollection.use_mpu_process_groups())


def nearest_resize(image, size, interpolation):
    assert str(interpolation) == "nearest"
    return torch.nn.functional.interpolate(image, size=size, mode="nearest")


def diffusers_network(config, weights):
    from types import SimpleNamespace

    from diffusers.models.transformers import transformer_cosmos
    from diffusers.models.transformers.transformer_cosmos import CosmosTransformer3DModel

    # diffusers resizes the padding mask with torchvision, whose PyPI builds need a CUDA torch: the one call it makes.
    transformer_cosmos.transforms = SimpleNamespace(
        functional=SimpleNamespace(resize=nearest_resize), InterpolationMode=SimpleNamespace(NEAREST="nearest")
    )
    model = CosmosTransformer3DModel(
        in_channels=config.latent_channels + int(config.condition_mask),
        out_channels=config.latent_channels,
        num_attention_heads=config.num_attention_heads,
        attention_head_dim=config.head_dim,
        num_layers=config.num_layers,
        mlp_ratio=config.mlp_ratio,
        text_embed_dim=config.text_embedding_dim,
        adaln_lora_dim=config.adaln_lora_dim,
        max_size=(config.max_frames, config.max_height, config.max_width),
        rope_scale=(
            config.rope_t_extrapolation_ratio,
            config.rope_h_extrapolation_ratio,
            config.rope_w_extrapolation_ratio,
        ),
        extra_pos_embed_type="learnable",
    )
    native = to_native(weights)
    model.load_state_dict(from_native(native, "diffusers"), strict=True)
    return model


def diffusers_output(model, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Its prediction for :func:`golden_inputs`, with or without a condition mask."""
    return model(
        hidden_states=inputs["x_BCTHW"],
        timestep=inputs["timesteps_B"],
        encoder_hidden_states=inputs["text_BME"],
        fps=24,
        condition_mask=inputs.get("condition_mask_B1THW"),
        padding_mask=inputs["padding_mask_B1HW"],
        return_dict=False,
    )[0]


@pytest.mark.parametrize("ratio", [1.0, 2.0], ids=["7b-positions", "14b-positions"])
@pytest.mark.parametrize("condition", [False, True], ids=["text2world", "video2world"])
def test_equals_diffusers_forward_and_gradients(ratio, condition):
    config = tiny_config(condition, rope_h_extrapolation_ratio=ratio, rope_w_extrapolation_ratio=ratio)
    weights = golden_weights(config)
    network = build_network(config)
    load_official(network, config, weights)
    oracle = diffusers_network(config, weights)
    inputs = golden_inputs()
    if condition:
        inputs["condition_mask_B1THW"] = condition_mask()
    ours = network(**inputs)
    theirs = diffusers_output(oracle, inputs)
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()
    ours.square().mean().backward()
    theirs.square().mean().backward()
    gradients = {n: p.grad for n, p in network.named_parameters() if p.grad is not None}
    converted = from_native(gradients, "diffusers")
    expected = {name: p.grad for name, p in oracle.named_parameters() if p.grad is not None}
    assert set(converted) == set(expected)
    for name, gradient in expected.items():
        difference = (converted[name] - gradient).abs().max()
        assert difference < 1e-5 and difference < 5e-5 * gradient.abs().max(), name


@pytest.mark.parametrize("granularity", ["full", "selective"])
def test_recomputation_changes_nothing(granularity):
    gradients = []
    for setting in (None, granularity):
        network = build_network(tiny_config(recompute_granularity=setting))
        network(**golden_inputs()).square().mean().backward()
        gradients.append({name: p.grad for name, p in network.named_parameters() if p.grad is not None})
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


def test_timestep_embedding_check_values():
    from cosmos1.models.diffusion.network import TimestepEmbedding

    config = build_network(tiny_config()).config
    config.hidden_size = 4096
    embedder = TimestepEmbedding(config)
    torch.nn.init.ones_(embedder.affline_norm)
    torch.nn.init.zeros_(embedder.linear_1.weight)
    embedding, _ = embedder(torch.tensor([0.7]))
    # The norm divides by the root mean square of cosines and sines, which is sqrt(1/2).
    assert embedding[0, 0].item() == pytest.approx(0.764842 * math.sqrt(2), abs=1e-4)
    assert embedding[0, 2048].item() == pytest.approx(0.644218 * math.sqrt(2), abs=1e-4)
