# SPDX-License-Identifier: Apache-2.0
"""A network that knows what its text means prefers the right one."""

import argparse

import pytest
import torch
from cosmos1.evaluation.instruction_following import RIGHT, WRONG, _Evaluation, other_text, run

from cosmos1.errors import ConfigError, DataError
from cosmos1.models.diffusion.config import DiTConfig
from cosmos1.models.diffusion.model import DiffusionModel
from cosmos1.models.diffusion.objective_config import EDMObjective, VideoConditioning


def sample_of(brightness: float) -> dict:
    """A latent as bright as its text says."""
    return {
        "video": torch.full((1, 16, 2, 4, 4), brightness),
        "t5_text_embeddings": torch.full((1, 8, 32), brightness),
        "fps": torch.tensor([5.0]),
        "padding_mask": torch.zeros(1, 1, 4, 4),
        "sample_position": torch.tensor([0]),
    }


def test_the_other_text_is_the_next_that_says_something_else():
    samples = [sample_of(0.1), sample_of(0.1), sample_of(0.2), sample_of(0.3)]
    found = [other_text(samples, index).flatten()[0].item() for index in range(4)]
    assert found == pytest.approx([0.2, 0.2, 0.3, 0.1])
    with pytest.raises(DataError, match="all 2 samples have the same text"):
        other_text(samples[:2], 0)


class Oracle:
    """A network that predicts a clean latent as bright as the text says."""

    def evaluating(self):
        return torch.no_grad()


def test_loss_under_the_right_text_is_lower_and_repeats(monkeypatch):
    def prediction(model, noisy):
        c = noisy.coefficients
        clean = noisy.text.mean() * 0.5
        return (clean - c.c_skip * noisy.network_input) / c.c_out

    monkeypatch.setattr("cosmos1.training.schedule_runner.predict", prediction)
    objective = EDMObjective(conditioning=VideoConditioning(1, 1))
    generator = argparse.Namespace(model=Oracle(), task=DiffusionModel(DiTConfig(condition_mask=True), objective))
    evaluation = _Evaluation(generator, argparse.Namespace(num_noises=3, num_generated=0, seed=1))
    sample, wrong = sample_of(0.5), sample_of(0.5) | {"t5_text_embeddings": sample_of(-0.5)["t5_text_embeddings"]}
    right = evaluation.score(0, sample, RIGHT)
    assert right == evaluation.score(0, sample, RIGHT) and right["loss"] == pytest.approx(0, abs=1e-6)
    assert evaluation.score(0, wrong, WRONG)["loss"] > 0.1


def test_a_sheet_needs_a_generated_video(tmp_path):
    with pytest.raises(ConfigError, match="give --num_generated as well"):
        run(argparse.Namespace(contact_sheet=tmp_path / "sheet.png", num_generated=0))
