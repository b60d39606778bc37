# SPDX-License-Identifier: Apache-2.0
"""Whose control a sample is shown, and what cannot be compared. The command itself: tests/e2e."""

import argparse

import pytest
import torch

from cosmos1.errors import ConfigError, DataError
from cosmos1.evaluation.control_following import exchanged, run


def samples_of(*brightness: float, key: str = "t5_text_embeddings") -> list[dict]:
    return [{"video": torch.zeros(1, 16, 2, 4, 4), key: torch.full((1, 8, 32), value)} for value in brightness]


def test_the_other_control_is_the_next_that_differs():
    samples = samples_of(0.1, 0.1, 0.2, 0.3)
    found = [exchanged(samples, index, "text")["t5_text_embeddings"].flatten()[0].item() for index in range(4)]
    assert found == pytest.approx([0.2, 0.2, 0.3, 0.1])
    with pytest.raises(DataError, match="all 2 samples have the same text"):
        exchanged(samples[:2], 0, "text")


@pytest.mark.parametrize("key", ["plucker_embeddings", "plucker_tokens"])
def test_the_camera_has_a_name_in_each_family(key):
    samples = samples_of(0.1, 0.2, key=key)
    other = exchanged(samples, 0, "camera")
    assert other[key] is samples[1][key] and other["video"] is samples[0]["video"]


def test_views_take_the_place_of_their_neighbours():
    sample = {"view_indices": torch.tensor([[0, 1, 2]])}
    assert exchanged([sample], 0, "views")["view_indices"].tolist() == [[2, 0, 1]]


def test_a_control_that_the_samples_do_not_have():
    with pytest.raises(
        DataError, match="--control action: the samples have none of action, but t5_text_embeddings, video"
    ):
        exchanged(samples_of(0.1, 0.2), 0, "action")


def test_a_sheet_needs_a_generated_video(tmp_path):
    with pytest.raises(ConfigError, match="give --num_generated as well"):
        run(argparse.Namespace(contact_sheet=tmp_path / "sheet.png", num_generated=0))
