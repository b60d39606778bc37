# SPDX-License-Identifier: Apache-2.0
"""Networks with control signals: golden vectors of the reference networks, and what a new signal changes at first."""

import pytest
import torch

from cosmos1.conditioning.settings import ActionConditioning, TrajectoryConditioning
from cosmos1.models.diffusion.config import DiTConfig, dit_config
from cosmos1.models.diffusion.positions import LearnablePositions, TokenGrid, rotary_angles, sinusoidal_positions
from tests.models.reference import build_network, tiny_config
from tests.models.test_network import build_meta_network
from tests.models.variants import CONFIGS, FIXED, PREDICT1, VIEWS, golden_network, golden_variant_inputs

GOLDEN = {
    "views": (0.039045, 1.652358, 5.264858, {0: -0.818517, 1: 0.344210, 3072: 0.694369, 4608: -1.445837, 9215: 0.360553}),
    "views_video2world": (0.071172, 1.661217, 5.297643, {0: -1.230024, 1: -0.573176, 3072: 0.456864, 4608: -0.290850, 9215: 0.636507}),
    "views_trajectory": (-0.047033, 1.587532, 5.442613, {0: 0.434957, 1: 0.615825, 3072: -0.296264, 4608: -2.280062, 9215: 0.926140}),
    "action_predict1": (-0.386130, 1.810031, 6.142189, {0: 2.115248, 1: -2.861092, 1536: -0.909401, 2304: 1.654108, 4607: -0.639064}),
    "action_nemo": (0.087298, 1.787769, 7.298610, {0: -0.783057, 1: 0.372277, 1536: -0.235193, 2304: -1.275565, 4607: 0.405148}),
}  # fmt: skip
GOLDEN_CONFIGS = {
    "views": tiny_config(views=VIEWS, **FIXED),
    "views_video2world": tiny_config(True, views=VIEWS, **FIXED),
    "views_trajectory": tiny_config(views=VIEWS, trajectory=TrajectoryConditioning(12), **FIXED),
    "action_predict1": tiny_config(True, action=PREDICT1),
    "action_nemo": tiny_config(True, action=ActionConditioning()),
}


@pytest.mark.parametrize("case", GOLDEN)
def test_golden_vector(case):
    config = GOLDEN_CONFIGS[case]
    with torch.no_grad():
        network = golden_network(config, nemo_action=case == "action_nemo")
        output = network(**golden_variant_inputs(config))
    mean, std, largest, elements = GOLDEN[case]
    assert output.mean().item() == pytest.approx(mean, abs=1e-5)
    assert output.std(unbiased=False).item() == pytest.approx(std, abs=1e-5)
    assert output.abs().max().item() == pytest.approx(largest, abs=1e-4)
    for index, value in elements.items():
        assert output.flatten()[index].item() == pytest.approx(value, abs=1e-4)


def base_config(config):
    """The same network without control signals."""
    return tiny_config(
        config.condition_mask,
        sinusoidal_positions=config.sinusoidal_positions,
        learnable_positions=config.learnable_positions,
    )


def signal_parameters(network) -> dict:
    return {n: p for n, p in network.named_parameters() if n.startswith(("action.", "views.", "trajectory."))}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_new_signal_changes_nothing_at_first(case):
    config = CONFIGS[case]
    inputs = golden_variant_inputs(config, num_views=1)
    with torch.no_grad():
        network = build_network(config)
        with_signal = network(**inputs)
        signals = inputs.pop("controls")
        without = build_network(base_config(config))(**inputs)
        assert without.abs().max() > 0.1
        assert (with_signal - without).abs().max() < 1e-5
        # The signals are connected: any other weights show them.
        for parameter in [*signal_parameters(network).values(), network.x_embedder.weight]:
            parameter.normal_(std=0.1)
        outputs = [network(**inputs, controls=signals)]
        for name in signals:
            outputs.append(network(**inputs, controls=signals | {name: 1 - signals[name]}))
    assert all((output - outputs[0]).abs().max() > 1e-3 for output in outputs[1:])


@pytest.mark.parametrize("case", CONFIGS)
def test_every_new_parameter_learns(case):
    """Second layers get gradients at once; what is in front of them after one step."""
    config = CONFIGS[case]
    network, inputs = build_network(config), golden_variant_inputs(config)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        network(**inputs).square().mean().backward()
        gradients = {name: p.grad.clone() for name, p in signal_parameters(network).items()}
        columns = network.x_embedder.weight.grad.abs().amax(dim=0)
        optimizer.step()
    for name, gradient in gradients.items():
        assert gradient.abs().max() > 1e-7, name
    assert columns.min() > 1e-7


def outputs_with_texts(network, inputs, texts) -> list[torch.Tensor]:
    with torch.no_grad():
        return [network(**inputs | {"text_BME": text}) for text in texts]


def test_each_view_reads_its_own_text():
    config = CONFIGS["views_fixed"]
    with torch.no_grad():
        network, inputs = golden_network(config), golden_variant_inputs(config)
        for layer in network.decoder.layers:
            layer.full_self_attention.linear_proj.weight.zero_()
    text = inputs["text_BME"]
    other = text.clone()
    other[:, 16:] += 1  # eight rows for each of three views
    before, after = outputs_with_texts(network, inputs, [text, other])
    changed = (before - after).abs().amax(dim=(0, 1, 3, 4))  # by frame, two for each view
    assert changed[:4].max() == 0
    assert changed[4:].min() > 1e-2


def test_a_shared_text_is_the_same_text_for_every_view():
    shared, own = CONFIGS["views_shared_text"], tiny_config(True, views=VIEWS)
    inputs = golden_variant_inputs(shared)
    with torch.no_grad():
        one = build_network(shared)(**inputs)
        repeated = build_network(own)(**inputs | {"text_BME": inputs["text_BME"].repeat(1, 3, 1)})
    assert (one - repeated).abs().max() < 1e-5


def test_a_sample_may_carry_some_of_the_views():
    """Views are told by their index, not by their place: swapping both index and latent swaps the output."""
    config = tiny_config(views=VIEWS)
    with torch.no_grad():
        network = golden_network(config)
        inputs = golden_variant_inputs(config, num_views=2)
        inputs["text_BME"][:, 8:] = inputs["text_BME"][:, :8]
        inputs["controls"] = {"view_indices": torch.tensor([[2, 0]])}
        output = network(**inputs)
        inputs["controls"] = {"view_indices": torch.tensor([[0, 2]])}
        inputs["x_BCTHW"] = inputs["x_BCTHW"].roll(2, dims=2)
        swapped = network(**inputs)
    assert (output.roll(2, dims=2) - swapped).abs().max() < 1e-4


@pytest.mark.parametrize(
    "size, action, extra",
    [
        ("7b", ActionConditioning(), 218_284_032),
        ("14b", ActionConditioning(), 341_012_480),
        ("7b", ActionConditioning(hidden_width="4D"), 268_713_984),
        ("14b", ActionConditioning(hidden_width="4D"), 419_778_560),
    ],
)
def test_number_of_action_parameters(size, action, extra):
    config = dit_config(size, condition_mask=True)
    config.action = action
    with torch.device("meta"):
        network = build_meta_network(config)
    assert sum(p.numel() for p in network.action.parameters()) == extra


def test_sinusoidal_positions_check_values():
    config, grid = DiTConfig(**FIXED), TokenGrid(8, 4, 4, views=2)
    table = sinusoidal_positions(config, grid, 0, len(grid), "cpu", torch.float32)
    # Frame 3 of the second view, row 3, column 0: 1368 channels of time, then 1364 of rows.
    token = table[7 * 16 + 3 * 4]
    rows = token[1368 : 1368 + 1364]
    assert [rows[i].item() for i in (0, 1, 682, 1363)] == pytest.approx([0.14112, 0.180835, -0.989992, 1.0], abs=1e-5)
    assert token[1].item() == pytest.approx(0.18072, abs=1e-5)
    assert torch.equal(table[: 4 * 16], table[4 * 16 :])


def test_another_tokenizer_keeps_places_in_time_and_space():
    """Every second latent frame of a 4x tokenizer, and every second row of a 4 x 4 one, is where an 8x8x8 one has its."""
    base, finer = dit_config("tiny", False), dit_config("tiny", False)
    finer.temporal_factor = finer.spatial_factor = 4
    coarse_grid, fine_grid = TokenGrid(3, 4, 5), TokenGrid(5, 7, 9)
    coarse = rotary_angles(base, coarse_grid, 0, len(coarse_grid), 30.0, "cpu").reshape(3, 4, 5, -1)
    fine = rotary_angles(finer, fine_grid, 0, len(fine_grid), 30.0, "cpu").reshape(5, 7, 9, -1)
    assert torch.allclose(fine[::2, ::2, ::2], coarse, atol=1e-6)
    learned = LearnablePositions(finer, torch.float32, "cpu")
    for table in learned.parameters():
        torch.nn.init.normal_(table)
    fine = learned(fine_grid, 0, len(fine_grid)).reshape(5, 7, 9, -1)
    learned.scales = (1.0, 1.0, 1.0)
    coarse = learned(coarse_grid, 0, len(coarse_grid)).reshape(3, 4, 5, -1)
    assert torch.allclose(fine[::2, ::2, ::2], coarse, atol=1e-6)
    assert not torch.allclose(fine[1, 0, 0], coarse[0, 0, 0], atol=1e-2)
