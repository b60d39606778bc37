# SPDX-License-Identifier: Apache-2.0
"""Control signals on their way from the batch to the network."""

import pytest
import torch

from cosmos1.conditioning.controls import take_controls
from cosmos1.conditioning.settings import (
    ActionConditioning,
    CameraConditioning,
    TrajectoryConditioning,
    ViewConditioning,
)
from cosmos1.conditioning.views import tokens_per_view
from cosmos1.errors import ConfigError, DataError
from cosmos1.models.diffusion.config import DiTConfig
from cosmos1.models.diffusion.generation import GenerationSettings, GivenFrames, Predictor, Prompt, generate_latent
from cosmos1.models.diffusion.model import DiffusionModel
from cosmos1.models.diffusion.objective_config import EDMObjective, VideoConditioning

CPU = torch.device("cpu")
EVERYTHING = DiTConfig(
    condition_mask=True,
    action=ActionConditioning(action_dim=4, num_actions=2),
    camera=CameraConditioning(),
    views=ViewConditioning(num_views=3, view_dim=3),
    trajectory=TrajectoryConditioning(5),
)


def batch_of(size: int = 2, num_views: int = 3, **changes) -> dict:
    frames = 2 * num_views
    batch = {
        "video": torch.randn(size, 16, frames, 4, 6),
        "t5_text_embeddings": torch.randn(size, 8 * num_views, 32),
        "fps": torch.full((size,), 24.0),
        "padding_mask": torch.zeros(size, 1, 4, 6),
        "sample_position": torch.arange(size),
        "action": torch.randn(size, 2, 4),
        "plucker_embeddings": torch.randn(size, frames, 6, 4, 6),
        "view_indices": torch.arange(num_views).repeat(size, 1),
        "frame_repeat": torch.zeros(size, num_views),
        "trajectory": torch.randn(size, 192),
    }
    return {name: value for name, value in (batch | changes).items() if value is not None}


def taken(batch: dict, config: DiTConfig = EVERYTHING) -> dict:
    return take_controls(config, batch, batch["video"].shape, CPU)


def test_the_network_gets_what_it_takes_and_nothing_else():
    assert set(taken(batch_of())) == {"action", "plucker_embeddings", "view_indices", "frame_repeat", "trajectory"}
    assert "frame_repeat" not in taken(batch_of(frame_repeat=None))
    assert taken(batch_of(), DiTConfig()) == {}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"action": None}, "takes the control signal action, the batches hold fps,"),
        (
            {"action": torch.zeros(2, 1, 4)},
            r"action has shape \[1, 4\], this network needs \[2, 4\]; set model.config",
        ),
        (
            {"plucker_embeddings": torch.zeros(2, 17, 6, 4, 6)},
            r"needs \[6, 6, 4, 6\]; give one map per latent frame",
        ),
        ({"trajectory": torch.zeros(2, 191)}, r"trajectory has shape \[191\]"),
        ({"view_indices": torch.tensor([[0, 1, 3]] * 2)}, r"view_indices \[0, 1, 3\] do not fit a network of 3 views"),
        ({"view_indices": torch.zeros(2, 4, dtype=torch.long)}, "6 latent frames, which do not divide by its 4 views"),
        ({"t5_text_embeddings": torch.zeros(2, 512, 32)}, "3 views has 512 rows, a text for each view is needed"),
    ],
)
def test_signals_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(DataError, match=message):
        taken(batch_of(**changes))


def test_a_shared_text_that_is_none_is_refused():
    config = DiTConfig(views=ViewConditioning(num_views=3, shared_text=True))
    with pytest.raises(DataError, match="1536 rows, with model.config.views.shared_text=true one text"):
        taken(batch_of(t5_text_embeddings=torch.zeros(2, 1536, 32)), config)


@pytest.mark.parametrize(
    "config, message",
    [
        (DiTConfig(action=ActionConditioning(action_dim=0)), "model.config.action.action_dim=0"),
        (DiTConfig(views=ViewConditioning(num_views=0)), "model.config.views.num_views=0"),
        (DiTConfig(trajectory=TrajectoryConditioning(0)), "trajectory_dim=0"),
        (DiTConfig(sinusoidal_positions=True), "learnable_positions=false"),
        (DiTConfig(temporal_factor=0), "model.config.temporal_factor=0"),
    ],
)
def test_settings_that_cannot_be_are_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        config.validate()


def model_of(**objective) -> DiffusionModel:
    return DiffusionModel(EVERYTHING, EDMObjective(**objective))


def test_trajectories_are_dropped_by_sample_and_only_in_training():
    model, batch = model_of(trajectory_dropout=0.5), batch_of(40)
    kept = model.prepare(batch, 3, CPU, training=True).controls["trajectory"].abs().sum(1) > 0
    assert 8 < kept.sum() < 32
    parts = [{name: value[rows] for name, value in batch.items()} for rows in (slice(0, 15), slice(15, 40))]
    again = [model.prepare(part, 3, CPU, training=True).controls["trajectory"].abs().sum(1) > 0 for part in parts]
    assert torch.equal(torch.cat(again), kept)
    held_out = model.prepare(batch, 3, CPU, training=False)
    assert torch.equal(held_out.controls["trajectory"], batch["trajectory"])
    assert torch.equal(held_out.controls["action"], batch["action"])


def test_the_first_frames_of_every_view_are_given():
    model = model_of(conditioning=VideoConditioning(min_frames=1, max_frames=1))
    sample = model.prepare(batch_of(), 3, CPU, training=True)
    assert sample.given.flatten(1).tolist() == [[1, 0, 1, 0, 1, 0]] * 2
    assert sample.condition_mask[:, 0, :, 0, 0].tolist() == [[1, 0, 1, 0, 1, 0]] * 2


def test_guidance_keeps_the_signals_but_for_the_trajectory():
    seen = []

    def predict(sample):
        seen.append((bool(sample.text.any()), sample.controls, sample.condition_mask[0, 0, :, 0, 0].tolist()))
        return torch.zeros_like(sample.network_input)

    batch = batch_of(1)
    prompt = Prompt(batch["t5_text_embeddings"], 24.0, controls=taken(batch), given=GivenFrames(batch["video"], 1))
    predictor = Predictor(predict, sigma_data=0.5, condition_mask=True)
    latent = generate_latent(predictor, [16, 6, 4, 6], prompt, GenerationSettings(num_steps=2))
    assert torch.allclose(latent[:, :, ::2] * 0.5, batch["video"][:, :, ::2], atol=1e-5)
    for has_text, controls, mask in seen:
        assert mask == [1, 0, 1, 0, 1, 0]
        assert torch.equal(controls["trajectory"].bool().any(), torch.tensor(has_text))
        assert all(torch.equal(controls[name], batch[name]) for name in controls if name != "trajectory")
    assert {has_text for has_text, *_ in seen} == {True, False}


def test_pixels_are_encoded_in_the_step():
    pixels = torch.rand(2, 3, 2, 32, 48) * 2 - 1
    batch = batch_of(num_views=1, video=None, pixels=pixels)
    model = DiffusionModel(DiTConfig(), tokenizer="dct", single_frames=True)
    sample = model.prepare(batch, 0, CPU, training=False)
    assert sample.clean.shape == (2, 16, 2, 4, 6)
    alone = model.prepare(batch | {"pixels": pixels[:, :, 1:]}, 0, CPU, training=False)
    assert torch.equal(sample.clean[:, :, 1:], alone.clean)
    assert model.num_tokens(batch) == 2 * 2 * 3 and model.batch_size(batch) == 2
    with_groups = DiffusionModel(DiTConfig(), tokenizer="dct")
    assert with_groups.num_tokens({"pixels": torch.zeros(1, 3, 17, 32, 48)}) == 3 * 2 * 3


def test_tokens_of_each_view_in_a_range():
    assert tokens_per_view(0, 96, 96, 3) == [32, 32, 32]
    assert tokens_per_view(48, 96, 96, 3) == [0, 16, 32]
    assert tokens_per_view(8, 24, 96, 3) == [16, 0, 0]
