# SPDX-License-Identifier: Apache-2.0
"""Every parallel layout trains the autoregressive networks as one process does, and all tensors end up the same."""

import pytest

from tests.distributed.launching import (
    assert_close,
    assert_same_series,
    assert_same_tensors,
    checkpoint_folder,
    job,
    launch,
    series,
    stored,
)
from tests.distributed.test_layouts import BF16, CP, FSDP, MICRO, MODE, PP, RECOMPUTE, SP, TP, VPP

pytestmark = pytest.mark.distributed

STEPS = 5
SERIES = ("loss", "grad_norm", "token_accuracy", "perplexity", "val_loss")
ONE_PROCESS = {
    "one": {},
    "one_v2w": {},
    "micro_1": {MICRO: 1, RECOMPUTE: "selective"},
    "micro_4_v2w": {MICRO: 4, RECOMPUTE: "full"},
}
TWO_PROCESSES = {
    "dp2": {},
    "tp2_sp": {TP: 2, SP: True},
    "tp2_v2w": {TP: 2},
    "tp2_sp_v2w": {TP: 2, SP: True, RECOMPUTE: "full"},
    "pp2": {PP: 2},
    "pp2_v2w": {PP: 2},
    "pp2_virtual_v2w": {PP: 2, VPP: 2},
    "cp2_ulysses": {CP: 2, MODE: "ulysses"},
    "cp2_allgather": {CP: 2, MODE: "allgather"},
    "cp2_v2w": {CP: 2},
    "fsdp2": {FSDP: True},
    "fsdp2_v2w": {FSDP: True, RECOMPUTE: "selective"},
}
# The first three steps under one layout, the others under another.
RESUMED = {
    "three_steps_v2w": {
        TP: 2,
        SP: True,
        "log.name": "resumed_v2w",
        "trainer.max_steps": 3,
        "trainer.val_check_interval": 0,
    },
    "resumed_v2w": {FSDP: True},
}
FOUR_PROCESSES = {
    "tp2_pp2_v2w": {TP: 2, SP: True, PP: 2},
    "tp2_cp2_v2w": {TP: 2, SP: True, CP: 2},
    "cp4": {CP: 4, MODE: "allgather"},
    "fsdp2_tp2_v2w": {TP: 2, SP: True, FSDP: True},
    "cp2_pp2": {CP: 2, PP: 2},
}
HALF_PRECISION = {
    "fsdp2_bf16_v2w": {FSDP: True, RECOMPUTE: "selective", **BF16},
    "tp2_sp_bf16": {TP: 2, SP: True, **BF16},
}
UNMARKED = {"tp2_sp_unmarked": {TP: 2, SP: True, "model.unmark": "input_layernorm"}}


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("gpt_layouts")


def run(layouts: dict, num_processes: int, log_dir, common: dict) -> None:
    jobs = [job(name, "", log_dir, common | settings, video2world="v2w" in name) for name, settings in layouts.items()]
    launch(jobs, num_processes, worker="tests.distributed.gpt_worker")


@pytest.fixture(scope="module")
def trained(log_dir):
    common = {
        "trainer.max_steps": STEPS,
        "trainer.val_check_interval": STEPS,
        "optim.ema_widths": [0.1],
        "optim.config.clip_grad": 0.2,
    }
    run(ONE_PROCESS, 1, log_dir, common)
    run(TWO_PROCESSES | RESUMED | HALF_PRECISION | UNMARKED, 2, log_dir, common)
    run(FOUR_PROCESSES, 4, log_dir, common)


def reference_of(name: str) -> str:
    return "one_v2w" if name.endswith("v2w") else "one"


def test_the_reference_runs_learn(trained, log_dir):
    for name in ("one", "one_v2w"):
        losses = series(log_dir, name, "loss")
        assert losses[1] > 1.02 * losses[STEPS]
        assert min(series(log_dir, name, "grad_norm").values()) > 0.2  # clipping acts


@pytest.mark.parametrize("name", ["one", "one_v2w"])
def test_the_reference_runs_have_all_that_is_compared(name, trained, log_dir):
    for key in SERIES:
        assert len(series(log_dir, name, key)) == (1 if key == "val_loss" else STEPS), key
    tensors = stored(checkpoint_folder(log_dir, name, STEPS))
    assert any(key.startswith("ema.0.decoder.layers.3.mlp.linear_fc1") for key in tensors)


@pytest.mark.parametrize("name", [*ONE_PROCESS, *TWO_PROCESSES, *FOUR_PROCESSES, "resumed_v2w"])
def test_same_training_and_same_tensors(name, trained, log_dir):
    assert_same_series(log_dir, name, reference_of(name), STEPS, SERIES)
    assert_same_tensors(log_dir, name, reference_of(name), STEPS)


def test_a_missing_gradient_reduction_is_seen(trained, log_dir):
    """Negative control: without the mark of one replicated parameter the comparison must fail."""
    with pytest.raises(AssertionError, match="grad_norm|loss"):
        assert_same_series(log_dir, "tp2_sp_unmarked", "one", STEPS, SERIES)


@pytest.mark.parametrize("name", HALF_PRECISION)
def test_bf16_within_its_rounding(name, trained, log_dir):
    assert_close(series(log_dir, name, "loss"), series(log_dir, reference_of(name), "loss"), 1e-2, name)
