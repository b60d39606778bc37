# SPDX-License-Identifier: Apache-2.0
"""The autoregressive network against golden values, a plain float64 reference, and closed forms."""

import pytest
import torch

from cosmos1.errors import ConfigError, DataError
from cosmos1.models.autoregressive.config import GPTConfig, gpt_config
from cosmos1.models.autoregressive.flops import forward_flops, training_flops
from cosmos1.models.autoregressive.model import AutoregressiveModel
from cosmos1.models.autoregressive.objective import (
    TokenSample,
    make_token_sample,
    metric_sums,
    next_token_loss,
    summarize,
)
from cosmos1.models.autoregressive.objective_config import NextTokenObjective
from cosmos1.models.autoregressive.positions import absolute_positions, rotary_angles, rotary_frequencies
from cosmos1.parallel.strategy import MegatronStrategy
from tests.models.gpt_reference import (
    build_network,
    golden_inputs,
    golden_weights,
    load,
    miniature,
    reference_logits,
    to_megatron,
)

# Mean and deviation of the logits, logits of codes 0, 1, 31, 63 at positions 0, 5, 23, the best codes there, and the
# mean cross entropy of the first 23 positions.
GOLDEN = {
    "base": (-0.005309, 1.002751, (-0.4866, -0.9739, -1.3289, 0.5574), (-0.8441, 0.0084, -0.9971, 0.8120),
             (1.8831, -2.4223, 0.9903, -0.2477), [18, 8, 20], 4.861429),
    "base_yarn": (-0.005442, 1.005954, (-0.4866, -0.9739, -1.3289, 0.5574), (-0.8425, 0.0088, -0.9975, 0.8129),
                  (1.9064, -2.4110, 0.9975, -0.2517), [18, 8, 10], 4.869056),
    "v2w": (-0.000837, 0.938312, (-0.5155, -0.9993, -1.5438, 0.6684), (-0.9714, -0.1875, -1.0480, 0.8710),
            (1.7538, -2.2542, 0.6377, -0.3582), [33, 33, 20], 4.848601),
    "v2w_yarn": (-0.000817, 0.939893, (-0.5155, -0.9993, -1.5438, 0.6684), (-0.9658, -0.1880, -1.0497, 0.8721),
                 (1.7622, -2.2460, 0.6408, -0.3607), [33, 33, 20], 4.851019),
}  # fmt: skip


@pytest.fixture(params=GOLDEN)
def case(request):
    """``(name, config, official weights, network)``."""
    config = miniature("v2w" in request.param, "yarn" in request.param)
    official = golden_weights(config)
    network = build_network(config)
    load(network, to_megatron(official, config))
    return request.param, config, official, network


def as_float(text):
    return None if text is None else text.float()


@torch.no_grad()
def test_golden_values(case):
    name, config, _, network = case
    tokens, text, labels = golden_inputs(config)
    logits = network(tokens, as_float(text))
    mean, std, *rows, best, loss = GOLDEN[name]
    assert logits.shape == (1, config.sequence_length, 64)
    assert [logits.mean().item(), logits.std().item()] == pytest.approx([mean, std], abs=2e-5)
    for position, row in zip((0, 5, 23), rows):
        assert logits[0, position, [0, 1, 31, 63]].tolist() == pytest.approx(row, abs=2e-4)
    assert logits[0, [0, 5, 23]].argmax(-1).tolist() == best
    scores = network(tokens, as_float(text), labels)
    assert scores.loss_BS[0, :23].mean().item() == pytest.approx(loss, abs=2e-5)
    assert torch.equal(scores.correct_BS.bool(), logits.argmax(-1) == labels)


@torch.no_grad()
def test_plain_reference_in_float64(case):
    _, config, official, network = case
    tokens, text, _ = golden_inputs(config)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.cat([tokens, torch.randint(0, 64, tokens.shape, generator=generator)])
    text = None if text is None else torch.cat([text, torch.zeros_like(text)])
    expected = reference_logits(config, official, tokens, text)
    error = (network(tokens, as_float(text)) - expected).abs().max() / expected.abs().max()
    assert error < 1e-5


@torch.no_grad()
def test_a_token_does_not_see_what_follows_it(case):
    _, config, _, network = case
    tokens, text, _ = golden_inputs(config)
    changed = tokens.clone()
    changed[0, 12] = (changed[0, 12] + 1) % 64
    difference = (network(tokens, as_float(text)) - network(changed, as_float(text))).abs().amax(-1)[0]
    assert difference[:12].max() == 0 and difference[12:24].min() > 0


@pytest.mark.parametrize("granularity, num_layers", [("full", None), ("selective", 1)])
def test_recomputation_changes_no_gradient(granularity, num_layers):
    gradients = {}
    for recompute in (None, granularity):
        config = miniature(True, recompute_granularity=recompute, recompute_num_layers=num_layers)
        network = build_network(config)
        tokens, text, labels = golden_inputs(config)
        network(tokens, as_float(text), labels).loss_BS.mean().backward()
        gradients[recompute] = [parameter.grad for parameter in network.parameters()]
    assert min(gradient.abs().max() for gradient in gradients[None]) > 0
    for plain, recomputed in zip(*gradients.values()):
        torch.testing.assert_close(recomputed, plain, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    "size, count",
    [("4b", 4_014_088_192), ("12b", 11_560_975_360), ("5b", 4_584_845_312), ("13b", 13_323_125_760)],
)
def test_parameter_count(size, count):
    from cosmos1.parallel import process_groups

    process_groups.initialize(MegatronStrategy())
    from megatron.core.process_groups_config import ProcessGroupCollection

    from cosmos1.models.autoregressive.network import GPT

    task = AutoregressiveModel(config=gpt_config(size))
    config = task.megatron_config(MegatronStrategy(), torch.bfloat16, torch.device("meta"))
    config.use_cpu_initialization = True  # otherwise Megatron-core's layers name their device
    with torch.device("meta"):
        network = GPT(config, ProcessGroupCollection.use_mpu_process_groups())
    assert sum(parameter.numel() for parameter in network.parameters()) == count


@pytest.mark.parametrize(
    "size, spatial, temporal",
    [
        ("4b", [1, 0.53532863, 0.28657675, 0.15341273, 0.08212623], [1, 0.55075175, 0.30332753]),
        ("13b", [1, 0.48251024, 0.18266423, 0.07670636, 0.04106312], [0.5, 0.27537587, 0.15166377]),
    ],
)
def test_rotary_frequencies(size, spatial, temporal):
    t, h, w = rotary_frequencies(gpt_config(size))
    assert [len(t), len(h), len(w)] == [22, 21, 21]
    assert h[:5].tolist() == pytest.approx(spatial, rel=1e-6) and torch.equal(h, w)
    assert t[:3].tolist() == pytest.approx(temporal, rel=1e-6)
    last = (3.7360226e-6, 3.6314007e-6) if size == "4b" else (1.8680113e-6, 1.8157003e-6)
    assert [h[20].item(), t[21].item()] == pytest.approx(last, rel=1e-6)


CHANNELS = [0, 1, 21, 22, 23, 42, 43, 44, 63]


@pytest.mark.parametrize("size", ["4b", "5b", "12b", "13b"])
def test_rotary_table_of_frame_3_row_17_column_29(size):
    plain = [-0.989992, -0.081369, 1.0, -0.275163, -0.947909, 1.0, -0.748058, -0.983223, 1.0]
    yarn = [0.070737, 0.677728, 1.0, -0.275163, -0.341669, 1.0, -0.748058, 0.143869, 1.0]
    config = gpt_config(size)
    row = 8798 if config.video2world else 8797
    cos = rotary_angles(config, row, row + 1, "cpu").cos()[0]
    assert cos[CHANNELS].tolist() == pytest.approx(yarn if size in ("12b", "13b") else plain, abs=1e-5)


@pytest.mark.parametrize(
    "size, values, total",
    [
        ("5b", [0.14112001, 0.18071967, -0.98999250, -0.98353465, -0.96139749,
         -0.87430241, -0.27516334, -0.66363388, -0.33033338, -0.74805753], 22815070.6468),
        ("13b", [0.14112001, 0.17290037, -0.98999250, -0.98493932, -0.96139749,
         -0.89546076, -0.27516334, -0.66363388, -0.40247656, -0.74805753], 28520226.1002),
    ],
)  # fmt: skip
def test_absolute_positions(size, values, total):
    config = gpt_config(size)
    time, space = {"5b": (1368, 1364), "13b": (1708, 1706)}[size]
    channels = [
        0,
        1,
        time // 2,
        time // 2 + 1,
        time,
        time + 1,
        time + space // 2,
        time + space,
        time + space + 1,
        time + space * 3 // 2,
    ]
    row = absolute_positions(config, 8798, 8799, torch.float64, "cpu")[0]
    assert row[channels].tolist() == pytest.approx(values, abs=1e-8)
    table = absolute_positions(config, 0, config.sequence_length, torch.bfloat16, "cpu")
    assert table.shape == (12864, config.hidden_size)
    assert table.double().sum().item() == pytest.approx(total, abs=1e-3)
    assert not table[0].any() and not table[12801:].any() and table[1:12801].any(1).all()


def test_a_range_of_positions_is_cut_from_the_whole():
    config = miniature(video2world=True)
    whole = rotary_angles(config, 0, 32, "cpu")
    for start, stop in ((0, 8), (0, 1), (5, 27), (24, 32), (30, 32)):
        assert torch.equal(rotary_angles(config, start, stop, "cpu"), whole[start:stop])


def test_flops_of_the_4b_are_two_per_parameter_and_token():
    config = gpt_config("4b")
    weights = 4_014_088_192 - 64000 * 4096
    attention = 16 * 2 * 12800**2 * 4096
    assert forward_flops(config, 12800, 0) == pytest.approx(2 * weights * 12800 + attention, rel=1e-4)
    assert training_flops(config, 12800, 0) == pytest.approx(6 * weights * 12800 + 3 * attention, rel=1e-4)
    without_weight_gradients = training_flops(config, 12800, 0, frozen=True)
    assert without_weight_gradients == pytest.approx(4 * weights * 12800 + 3 * attention, rel=1e-4)


# ---- objective ----


def scored(loss, correct, mask):
    from cosmos1.models.autoregressive.network import TokenScores

    mask = torch.tensor(mask, dtype=torch.float32)
    nothing = torch.zeros_like(mask, dtype=torch.int64)
    return TokenSample(nothing, nothing, mask, None), TokenScores(torch.tensor(loss), torch.tensor(correct))


def test_loss_is_the_mean_over_samples_of_the_mean_over_scored_tokens():
    sample, scores = scored(
        [[1.0, 3.0, 100.0], [2.0, 50.0, 50.0]], [[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]], [[1, 1, 0], [1, 0, 0]]
    )
    loss = next_token_loss(sample, scores)
    assert loss.tolist() == [2.0, 2.0]
    means = summarize(metric_sums(loss, sample, scores).tolist())
    assert means == pytest.approx({"loss": 2.0, "perplexity": 7.389056, "token_accuracy": 2 / 3})
    assert summarize([0.0] * 4) == {}


@pytest.mark.parametrize("video2world", [False, True])
def test_first_frames_can_be_left_unscored(video2world):
    config = miniature(video2world)
    length = config.sequence_length
    place = torch.arange(length)
    # Labels that say which video token they are.
    labels = place if video2world else place + 1
    batch = {
        "tokens": torch.zeros(1, length, dtype=torch.int64),
        "labels": labels[None],
        "loss_mask": (labels < 24).float()[None],
        "t5_text_embeddings": torch.zeros(1, 7, 20),
        "sample_position": torch.tensor([0]),
    }
    sample = make_token_sample(config, NextTokenObjective(num_unscored_frames=1), batch, 0, torch.device("cpu"))
    assert sample.labels[sample.loss_mask > 0].tolist() == list(range(12, 24))


def test_samples_that_do_not_count_have_no_scored_token():
    batch = {name: torch.zeros(2, 2, dtype=torch.int64) for name in ("tokens", "labels")}
    batch |= {"loss_mask": torch.ones(2, 2), "counted": torch.tensor([0.0, 1.0])}
    device = torch.device("cpu")
    sample = make_token_sample(miniature(False), NextTokenObjective(), batch, 0, device, training=False)
    _, scores = scored([[1.0, 3.0], [2.0, 4.0]], [[1.0, 1.0], [1.0, 0.0]], [[1, 1], [1, 1]])
    means = summarize(metric_sums(next_token_loss(sample, scores), sample, scores).tolist())
    assert means["loss"] == 3.0 and means["token_accuracy"] == 0.5


def test_text_dropout_belongs_to_the_sample():
    config = miniature(video2world=True)
    batch = {name: torch.zeros(64, 32, dtype=torch.int64) for name in ("tokens", "labels")}
    batch |= {"loss_mask": torch.ones(64, 32), "t5_text_embeddings": torch.ones(64, 7, 20)}
    batch["sample_position"] = torch.arange(64)
    objective = NextTokenObjective(text_dropout=0.5)
    kept = make_token_sample(config, objective, batch, 3, torch.device("cpu")).text[:, 0, 0]
    assert 16 < kept.sum() < 48
    second_half = {name: value[32:] for name, value in batch.items()}
    assert torch.equal(
        make_token_sample(config, objective, second_half, 3, torch.device("cpu")).text[:, 0, 0], kept[32:]
    )
    assert make_token_sample(config, objective, batch, 3, torch.device("cpu"), training=False).text.all()


@pytest.mark.parametrize("num_given", [0, 1])
@pytest.mark.parametrize("video2world", [False, True])
def test_corrupted_tokens_are_others_of_the_sample(video2world, num_given):
    config, device = miniature(video2world), torch.device("cpu")
    length, first = config.sequence_length, int(video2world)
    tokens = torch.full((64, length), 999)
    # Every video token tells its sample and its place.
    video = tokens[:, first : first + 24]
    video[:] = 100 * torch.arange(64)[:, None] + torch.arange(24)
    batch = {"tokens": tokens, "labels": tokens.clone(), "loss_mask": torch.ones(64, length)}
    batch |= {"sample_position": torch.arange(64), "t5_text_embeddings": torch.zeros(64, 7, 20)}
    objective = NextTokenObjective(token_corruption=0.25, num_unscored_frames=num_given)
    sample = make_token_sample(config, objective, batch, 3, device)
    wrong, given = sample.tokens != tokens, num_given * 24 // config.latent_shape[0]
    assert not wrong[:, : first + given].any()
    assert torch.equal(batch["labels"], sample.labels) and torch.equal(sample.tokens // 100, tokens // 100)
    shares = wrong.sum(1) / (24 - given)
    assert 0.15 < shares.mean() < 0.35 and shares.min() < 0.1 and 0.3 < shares.max() < 0.75
    half = make_token_sample(config, objective, {name: value[32:] for name, value in batch.items()}, 3, device)
    assert torch.equal(half.tokens, sample.tokens[32:])
    assert torch.equal(make_token_sample(config, objective, batch, 3, device, training=False).tokens, tokens)


# ---- what is refused ----


@pytest.mark.parametrize(
    "config, strategy, message",
    [
        ({}, {"tensor_model_parallel_size": 16}, "16.*num_query_groups"),
        ({"vocab_size": 63}, {"tensor_model_parallel_size": 2}, "vocab_size"),
        (
            {"context_parallel_mode": "ulysses"},
            {"tensor_model_parallel_size": 4, "context_parallel_size": 4},
            "ulysses",
        ),
        ({"latent_shape": [5, 40]}, {}, "latent_shape"),
        ({"num_query_groups": 5}, {}, "num_query_groups"),
    ],
)
def test_layouts_that_are_refused(config, strategy, message):
    model = AutoregressiveModel(config=GPTConfig(**config))
    with pytest.raises(ConfigError, match=message):
        model.validate(MegatronStrategy(**strategy), 16)


@pytest.mark.parametrize(
    "name, value, allowed",
    [
        ("num_unscored_frames", 5, "below the 5 latent frames"),
        ("text_dropout", 1.0, "from 0 to below 1"),
        ("camera_dropout", -0.1, "from 0 to below 1"),
        ("token_corruption", 0.6, "from 0 to 0.5"),
    ],
)
def test_objectives_that_are_refused(name, value, allowed):
    model = AutoregressiveModel(objective=NextTokenObjective(**{name: value}))
    with pytest.raises(ConfigError, match=f"model.objective.{name}={value}; .*{allowed}"):
        model.validate(MegatronStrategy(), 1)


def test_data_of_another_grid_is_refused():
    model, strategy = AutoregressiveModel(), MegatronStrategy(context_parallel_size=7)
    for shape in ([5, 40, 64], [12800]):
        model.validate_sample(MegatronStrategy(), shape)
    with pytest.raises(DataError, match=r"5 x 24 x 40.*5 x 40 x 64.*model.config.latent_shape"):
        model.validate_sample(strategy, [5, 24, 40])
    with pytest.raises(ConfigError, match="12800 tokens.*context_parallel_size=7"):
        model.validate_sample(strategy, [5, 40, 64])


def test_the_sequence_arithmetic_is_told():
    lines = AutoregressiveModel(config=gpt_config("13b")).describe()
    assert any("5 x 40 x 64 = 12800 video tokens + 1 that begins the video + 63 of padding = 12864" in x for x in lines)
    assert any("YaRN x2" in line for line in lines)
