# SPDX-License-Identifier: Apache-2.0
"""Which steps are skipped, which ranks are named, and when a save is tried again."""

import pytest

from cosmos1.errors import CheckpointError, ConfigError
from cosmos1.training import save_attempts
from cosmos1.training.bad_steps import reason_to_skip
from cosmos1.training.config import HangDetection, SpikePolicy
from cosmos1.training.run_state import Progress
from cosmos1.training.stragglers import find_slow


def test_a_spike_needs_a_history_and_does_not_enter_it():
    progress, policy = Progress(), SpikePolicy(factor=3.0, window=10)
    skipped = [reason_to_skip(norm, policy, progress) is not None for norm in (9.0, 1.0, 1.0, 3.1, 2.9, 3.1)]
    assert skipped == [False, False, False, True, False, False]  # the median of 9, 1, 1, 2.9 is 1.95
    assert progress.recent_grad_norms == [9.0, 1.0, 1.0, 2.9, 3.1]
    for _ in range(20):
        reason_to_skip(1.0, policy, progress)
    assert progress.recent_grad_norms == [1.0] * 10


def test_without_a_factor_only_what_is_no_number_is_skipped():
    progress = Progress()
    assert reason_to_skip(1e9, SpikePolicy(), progress) is None and progress.recent_grad_norms == []
    assert "nan" in reason_to_skip(float("nan"), SpikePolicy(), progress)


def test_slow_ranks_by_computing_and_by_data():
    slow = find_slow([1.0, 1.1, 1.6, 1.0], [0.0, 0.0, 0.0, 0.6], step_time_s=2.0, percent=25)
    assert list(slow) == [(2, "computing"), (3, "data")]
    assert "60% slower" in slow[2, "computing"] and "0.60 s per step" in slow[3, "data"]
    assert list(find_slow([1.0, 1.3], [0.1, 0.1], 2.0, 25)) == [(1, "computing")]


def test_saves_are_tried_again_a_limited_number_of_times(tmp_path, monkeypatch):
    monkeypatch.setattr(save_attempts, "RETRY_AFTER_S", 0.0)
    lines = []
    saves = save_attempts.SaveAttempts(tmp_path, 2, lines.append)
    assert not saves.retry_due()
    with saves.attempt():
        raise CheckpointError("disk full")
    assert saves.retry_due() and "disk full" in lines[0] and "GiB free" in lines[0]
    saves.succeeded()
    assert not saves.retry_due() and lines[1] == "saved again, after 1 failed saves"
    with pytest.raises(CheckpointError), saves.attempt(is_final=True):
        raise CheckpointError("disk full")


@pytest.mark.parametrize(
    "settings", [SpikePolicy(factor=0.5), SpikePolicy(window=2), HangDetection(factor=1), HangDetection(floor_s=0)]
)
def test_settings_that_make_no_sense(settings):
    with pytest.raises(ConfigError, match="trainer"):
        settings.validate()
