# SPDX-License-Identifier: Apache-2.0
"""Control signals of the autoregressive network: where they act, that they start without effect, and that they are learned."""

import pytest
import torch

from cosmos1.conditioning.token_modules import context_mask
from cosmos1.conditioning.token_settings import ActionRows, CameraRays, TrajectoryRows, ViewTokens
from cosmos1.errors import ConfigError, DataError
from cosmos1.models.autoregressive.config import GPTConfig, gpt_config
from cosmos1.models.autoregressive.generation import Decoding, generate_tokens
from cosmos1.models.autoregressive.model import AutoregressiveModel
from cosmos1.models.autoregressive.objective import make_token_sample
from cosmos1.models.autoregressive.objective_config import NextTokenObjective
from cosmos1.models.autoregressive.positions import absolute_positions, rotary_angles
from cosmos1.models.autoregressive.sampling import SamplingSettings
from cosmos1.parallel.strategy import MegatronStrategy
from tests.models.gpt_controls import CAMERA, SIGNALS, network_and_inputs, signals_for
from tests.models.gpt_reference import build_network, golden_inputs, miniature

CPU = torch.device("cpu")
GREEDY = SamplingSettings(temperature=0.0)
IDENTITIES = {
    "camera": ({"camera": CAMERA}, {"plucker_tokens": torch.ones(1, 24, 12)}),
    "one view": ({"views": ViewTokens(1)}, {"view_indices": torch.zeros(1, 1, dtype=torch.int64)}),
    "one view with its text": (
        {"views": ViewTokens(1, shared_text=False)},
        {"view_indices": torch.zeros(1, 1, dtype=torch.int64)},
    ),
    "no trajectory": ({"trajectory": TrajectoryRows(16)}, {"trajectory": torch.zeros(1, 192)}),
}


@pytest.mark.parametrize("case", IDENTITIES)
@torch.no_grad()
def test_new_layers_start_without_effect(case):
    settings, controls = IDENTITIES[case]
    base = miniature(video2world=True)
    tokens, text, _ = golden_inputs(base)
    expected = build_network(base)(tokens, text.float())
    found = build_network(miniature(video2world=True, **settings))(tokens, text.float(), None, controls)
    if case == "no trajectory":
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    else:
        assert torch.equal(found, expected)


@pytest.mark.parametrize("name", SIGNALS)
def test_every_parameter_gets_a_gradient_from_the_first_step_on(name):
    config = miniature(video2world=True, **SIGNALS[name])
    network = build_network(config)
    signals = signals_for(config, 2, torch.Generator().manual_seed(0))
    text = signals.pop("t5_text_embeddings", None)
    tokens = torch.randint(0, 64, (2, config.sequence_length), generator=torch.Generator().manual_seed(1))
    network(tokens, text, tokens, signals).loss_BS.mean().backward()
    without = [key for key, parameter in network.named_parameters() if not parameter.grad.abs().max() > 0]
    # Biases of a ReLU layer and embeddings of tokens that do not occur are no exception here.
    assert not without


def difference(network, tokens, texts: list, controls: list) -> torch.Tensor:
    """``[B, S]``: largest change of the logits from the first to the second conditions."""
    with torch.no_grad():
        first, second = (network(tokens, text, None, signals) for text, signals in zip(texts, controls))
    return (first - second).abs().amax(-1)


def test_a_ray_acts_where_its_token_is_said():
    config, network, tokens, text, controls = network_and_inputs("camera")
    changed = {"plucker_tokens": controls["plucker_tokens"].clone()}
    changed["plucker_tokens"][:, 9] += 1
    found = difference(network, tokens, [text, text], [controls, changed])
    # Position 9 reads token 8 and says token 9.
    assert found[:, :9].max() == 0 and found[:, 9:].min() > 0


def test_the_embedding_of_a_view_acts_where_its_tokens_are_said():
    config, network, tokens, text, controls = network_and_inputs("views")
    changed = {"view_indices": controls["view_indices"].clone()}
    changed["view_indices"][:, 1] = changed["view_indices"][:, 0]
    found = difference(network, tokens, [text, text], [controls, changed])
    assert found[:, :12].max() == 0 and found[:, 12:].min() > 0


def test_a_view_reads_its_own_text():
    config, network, tokens, text, controls = network_and_inputs("view_texts")
    changed = text.clone()
    changed[:, 6:12] += 1
    found = difference(network, tokens, [text, changed], [controls, controls])
    assert found[:, :12].max() == 0 and found[:, 12:].min() > 0


def test_a_trajectory_is_read_by_all_and_a_missing_one_by_none():
    config, network, tokens, text, controls = network_and_inputs("trajectory")
    with torch.no_grad():
        network.trajectory.linear_1.weight += 1
    mask = context_mask(config, 6 + 64, controls, 0, config.sequence_length)
    assert mask.flatten(1).sum(1).tolist() == [6, 70]
    changed = controls | {"trajectory": controls["trajectory"].clone()}
    changed["trajectory"][1, 3:6] += 1
    found = difference(network, tokens, [text, text], [controls, changed])
    assert found[0].max() == 0 and found[1].min() > 0


def test_order_and_repetition_of_actions():
    """The order of the actions counts; a single row is the same as its sevenfold repetition."""
    config, network, tokens, text, controls = network_and_inputs("action")
    changed = {"action": controls["action"].flip(1)}
    assert difference(network, tokens, [None, None], [controls, changed]).min() > 0
    single = build_network(miniature(video2world=True, action=ActionRows(3, 1, 16)))
    repeated = build_network(miniature(video2world=True, action=ActionRows(3, 7, 16)))
    with torch.no_grad():
        repeated.action.index.weight.zero_()
        action = controls["action"][:, :1]
        expected = single(tokens, None, None, {"action": action})
        found = repeated(tokens, None, None, {"action": action.expand(-1, 7, -1)})
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_positions_are_the_same_in_every_view():
    one, three = (miniature(video2world=True, **SIGNALS[name]) for name in ("camera", "views"))
    assert (three.num_video_tokens, three.sequence_length, three.token_grid) == (72, 80, [2, 3, 3, 4])
    for table in (rotary_angles, lambda *arguments: absolute_positions(*arguments[:3], torch.float32, CPU)):
        alone, together = table(one, 1, 25, CPU), table(three, 1, 73, CPU)
        by_view = together.unflatten(0, (2, 3, 12))
        for view in range(3):
            assert torch.equal(by_view[:, view].flatten(0, 1), alone)
        assert not table(three, 73, 80, CPU).any()


# ---- generation ----


@pytest.mark.parametrize("name", SIGNALS)
@torch.no_grad()
def test_token_by_token_equals_the_whole_sequence(name):
    config, network, tokens, text, controls = network_and_inputs(name)
    num_given = config.num_video_tokens // 2
    decoding = Decoding(network, tokens[:, : num_given + 1], text, GREEDY, controls)
    logits, next_logits = [], network.next_logits
    network.next_logits = lambda *arguments: logits.append(next_logits(*arguments)) or logits[-1]
    for _ in range(8):
        decoding.step()
    del network.next_logits
    whole = network(decoding.sequence_BS[:, : config.sequence_length], text, None, controls)
    for number, step in enumerate(logits, num_given + 1):
        torch.testing.assert_close(step, whole[:, number], rtol=1e-4, atol=1e-4)
    found, _ = generate_tokens(network, tokens[:, 1 : num_given + 1], text, GREEDY, controls=controls)
    assert torch.equal(found[:, : num_given + 9], decoding.sequence_BS[:, 1 : num_given + 10])


# ---- learning ----


def obedient_batch(config: GPTConfig, signal: str, seed: int) -> dict:
    """The second frame is what the signal says, code 3 or code 40; the first is noise."""
    generator = torch.Generator().manual_seed(seed)
    count = 16
    codes = torch.randint(0, 64, (count, config.num_video_tokens), generator=generator)
    says = torch.randint(0, 2, (count,), generator=generator)
    signs = says.float() * 2 - 1
    signals = signals_for(config, count, generator)
    per_token = says[:, None].expand(-1, config.num_video_tokens // 2)
    if signal == "action":
        signals["action"] = signs[:, None, None] * torch.rand(count, 1, 3, generator=generator) * 0.1
    elif signal == "plucker_tokens":
        signals["plucker_tokens"] = signs[:, None, None].expand(-1, config.num_video_tokens, 12).clone()
    elif signal == "trajectory":
        signals["trajectory"] = signs[:, None].expand(-1, 192) * torch.rand(count, 1, generator=generator)
    else:
        # Of three views, the first of the table is bright.
        size = config.num_video_tokens // 2 // config.num_views
        per_token = (signals["view_indices"] == 0).long().repeat_interleave(size, dim=1)
    codes[:, config.num_video_tokens // 2 :] = torch.where(per_token == 1, 40, 3)
    ids = torch.full((count, config.sequence_length + 1), config.padding_token)
    ids[:, 0], ids[:, 1 : 1 + codes.shape[1]] = config.begin_of_video, codes
    # Scored is the first token of each view alone: the others could be copied from it.
    mask = torch.zeros(config.sequence_length)
    mask[config.num_video_tokens // 2 : config.num_video_tokens : config.num_video_tokens // 2 // config.num_views] = 1
    batch = {"tokens": ids[:, :-1], "labels": ids[:, 1:], "loss_mask": mask.expand(count, -1)}
    if config.reads_text:
        signals["t5_text_embeddings"] = torch.zeros(count, 6, config.text_embedding_dim)
    return batch | signals | {"sample_position": torch.arange(count)}


@pytest.mark.parametrize(
    "signal, settings",
    [
        ("action", {"action": ActionRows(3, 1, 16)}),
        ("plucker_tokens", {"camera": CAMERA}),
        ("view_indices", {"views": ViewTokens(3)}),
        ("trajectory", {"trajectory": TrajectoryRows(16)}),
    ],
)
def test_signals_of_other_samples_make_the_loss_worse(signal, settings):
    config = miniature(video2world=True, hidden_size=48, **settings)
    task = AutoregressiveModel(config)
    network = build_network(config)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)

    def loss(batch, training: bool):
        sample = task.prepare(batch, 0, CPU, training)
        return task.loss(network, sample, task.forward(network, sample))[0]

    for step in range(60):
        optimizer.zero_grad()
        loss(obedient_batch(config, signal, step), training=True).backward()
        optimizer.step()
    batch = obedient_batch(config, signal, 1000)
    order = batch[signal].flatten(1).float().sum(1).argsort() if signal != "view_indices" else None
    shuffled = batch[signal].roll(1, dims=1) if order is None else batch[signal][order.flip(0)[order.argsort()]]
    with torch.no_grad():
        true, other = loss(batch, False).item(), loss(batch | {signal: shuffled}, False).item()
    assert true < 0.5 * other, f"{true:.3f} with the true signals, {other:.3f} with those of other samples"


# ---- batches and settings ----


def test_dropped_signals_are_zero():
    config = miniature(video2world=True, camera=CAMERA, trajectory=TrajectoryRows(16))
    batch = signals_for(config, 64, torch.Generator().manual_seed(0)) | {"sample_position": torch.arange(64)}
    batch |= {name: torch.zeros(64, 32, dtype=torch.int64) for name in ("tokens", "labels")}
    batch["loss_mask"] = torch.ones(64, 32)
    objective = NextTokenObjective(camera_dropout=0.5, trajectory_dropout=0.25)
    kept = make_token_sample(config, objective, batch, 3, CPU).controls
    shares = [kept[name].flatten(1).any(1).float().mean().item() for name in ("plucker_tokens", "trajectory")]
    assert 0.3 < shares[0] < 0.7 and 0.55 < shares[1] < 0.9
    untouched = make_token_sample(config, objective, batch, 3, CPU, training=False)
    assert torch.equal(untouched.controls["plucker_tokens"], batch["plucker_tokens"])
    assert torch.equal(untouched.text, batch["t5_text_embeddings"])


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("action", {"action": torch.zeros(2, 1, 3)}, r"\[1, 3\].*needs \[2, 3\].*num_actions"),
        ("action", {"action": None}, "control signal action.*data module of this task"),
        ("camera", {"plucker_tokens": torch.zeros(2, 12, 12)}, r"needs \[24, 12\]"),
        ("views", {"view_indices": torch.tensor([[0, 1, 3]] * 2)}, "num_views"),
        ("views", {"t5_text_embeddings": torch.zeros(2, 1536, 20)}, "1536 rows.*shared_text=true"),
        ("view_texts", {"t5_text_embeddings": torch.zeros(2, 512, 20)}, "512 rows.*text for each view"),
        ("trajectory", {"trajectory": torch.zeros(2, 64)}, "trajectory.*192"),
    ],
)
def test_batches_that_do_not_fit_are_refused(name, change, message):
    config = miniature(video2world=True, **SIGNALS[name])
    batch = signals_for(config, 2, torch.Generator().manual_seed(0)) | change
    batch = {key: value for key, value in batch.items() if value is not None}
    batch |= {"tokens": torch.zeros(2, 8), "labels": torch.zeros(2, 8), "loss_mask": torch.zeros(2, 8)}
    with pytest.raises(DataError, match=message):
        make_token_sample(config, NextTokenObjective(), batch | {"sample_position": torch.arange(2)}, 0, CPU)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"video2world": False, "camera": CameraRays()}, "plucker_tokens needs a Video2World network"),
        ({"views": ViewTokens(num_views=0)}, "views.num_views=0"),
        ({"action": ActionRows(action_dim=0)}, "action.action_dim=0"),
    ],
)
def test_settings_that_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        GPTConfig(**{"video2world": True, **settings}).validate()


def test_rays_of_another_number_of_frames_than_a_token_has_are_refused():
    config = miniature(video2world=True, camera=CAMERA)
    AutoregressiveModel(config, compression_factor=[2, 8, 8]).validate(MegatronStrategy(), 1)
    with pytest.raises(ConfigError, match="frames_per_token=2.*has 8 frames"):
        AutoregressiveModel(config).validate(MegatronStrategy(), 1)


def test_full_size_sequences():
    config = gpt_config("5b")
    config.latent_shape, config.views = [5, 20, 32], ViewTokens(6)
    assert (config.num_video_tokens, config.sequence_length) == (19200, 19264)
    config.latent_shape, config.views, config.pad_to_multiple_of = [2, 30, 40], None, 128
    config.action = ActionRows()
    assert config.sequence_length == 2432 and not config.reads_text
