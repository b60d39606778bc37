# SPDX-License-Identifier: Apache-2.0
"""Autoregressive networks with control signals train under every parallel layout as in one process."""

import pytest

from tests.distributed.launching import assert_same_series, assert_trained_alike, job, launch
from tests.distributed.test_layouts import CP, FSDP, PP, RECOMPUTE, SP, TP, VPP
from tests.models.gpt_controls import SIGNALS

pytestmark = pytest.mark.distributed

STEPS = 3
LAYOUTS = {"tp2_sp": {TP: 2, SP: True}, "cp2": {CP: 2}, "pp2": {PP: 2}}
CASES = [(signals, layout) for signals in SIGNALS for layout in LAYOUTS]
MORE_LAYOUTS = {"fsdp2": {FSDP: True, RECOMPUTE: "full"}, "pp2_virtual": {PP: 2, VPP: 2}}
CASES += [("all", layout) for layout in MORE_LAYOUTS]
UNMARKED = "tp2_sp_unmarked"


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt_controls")
    common = {"trainer.max_steps": STEPS, "trainer.val_check_interval": STEPS}
    alone = sorted({signals for signals, _ in CASES})
    launch_jobs([job(f"{signals}_one", "", folder, common, signals=signals) for signals in alone], 1)
    layouts = LAYOUTS | MORE_LAYOUTS | {UNMARKED: {**LAYOUTS["tp2_sp"], "model.unmark": "camera."}}
    jobs = [
        job(f"{signals}_{layout}", "", folder, common | layouts[layout], signals=signals)
        for signals, layout in [*CASES, ("all", UNMARKED)]
    ]
    launch_jobs(jobs, 2)
    return folder


def launch_jobs(jobs: list[dict], num_processes: int) -> None:
    launch(jobs, num_processes, worker="tests.distributed.gpt_control_worker")


@pytest.mark.parametrize("signals, layout", CASES)
def test_trains_as_one_process_does(signals, layout, log_dir):
    assert_trained_alike(log_dir, f"{signals}_{layout}", f"{signals}_one", STEPS)


def test_a_missing_gradient_reduction_is_seen(log_dir):
    """Negative control: without the mark of the new layer the comparison must fail."""
    with pytest.raises(AssertionError, match="grad_norm|loss"):
        assert_same_series(log_dir, f"all_{UNMARKED}", "all_one", STEPS)
