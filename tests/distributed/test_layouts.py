# SPDX-License-Identifier: Apache-2.0
"""Every parallel layout trains as one process does: losses, gradient norms, held-out loss, weights and EMA copies."""

import pytest
import torch

from tests.distributed.launching import (
    assert_close,
    assert_same_series,
    assert_trained_alike,
    checkpoint_folder,
    job,
    launch,
    series,
    stored,
)

pytestmark = pytest.mark.distributed

STEPS = 5
TP, PP, CP, VPP, SP, FSDP = (
    f"trainer.strategy.{name}"
    for name in (
        "tensor_model_parallel_size",
        "pipeline_model_parallel_size",
        "context_parallel_size",
        "virtual_pipeline_model_parallel_size",
        "sequence_parallel",
        "fsdp",
    )
)
MICRO, MODE, RECOMPUTE = (
    "data.micro_batch_size",
    "model.config.context_parallel_mode",
    "model.config.recompute_granularity",
)
V2W = {"model.config.condition_mask": True, "model.objective.conditioning.max_frames": 1}
BF16 = {"trainer.precision": "bf16"}

ONE_PROCESS = {
    "one": {},
    "one_v2w": V2W,
    "one_bf16": BF16,
    "one_logvar": {"model.objective.loss_add_logvar": True},
    "micro_1": {MICRO: 1},
    "micro_4": {MICRO: 4},
    "recompute_full": {RECOMPUTE: "full"},
    "recompute_selective": {RECOMPUTE: "selective", "model.config.recompute_num_layers": 3},
}
TWO_PROCESSES = {
    "dp2": {},
    "dp2_micro_1": {MICRO: 1},
    "tp2_sp": {TP: 2, SP: True},
    "tp2": {TP: 2},
    "tp2_sp_recompute": {TP: 2, SP: True, RECOMPUTE: "full"},
    "pp2": {PP: 2},
    "pp2_virtual": {PP: 2, VPP: 2},
    "cp2_ulysses": {CP: 2, MODE: "ulysses"},
    "cp2_allgather": {CP: 2, MODE: "allgather"},
    "cp2_ring": {CP: 2, MODE: "ring"},
    "fsdp2": {FSDP: True},
    "fsdp2_micro_1": {FSDP: True, MICRO: 1, RECOMPUTE: "selective"},
    "fsdp_cp2": {FSDP: True, CP: 2},
}
FOUR_PROCESSES = {
    "tp2_pp2": {TP: 2, SP: True, PP: 2},
    "tp2_cp2": {TP: 2, SP: True, CP: 2},
    "fsdp2_tp2": {TP: 2, SP: True, FSDP: True},
    "pp2_dp2": {PP: 2, MICRO: 1},
    "cp2_pp2": {CP: 2, PP: 2},
    "fsdp2_cp2": {FSDP: True, CP: 2},
    "virtual_tp2": {PP: 2, VPP: 2, TP: 2, SP: True},
}
CONDITIONED = {"tp2_sp_v2w": {TP: 2, SP: True, **V2W}, "cp2_v2w": {CP: 2, **V2W}, "pp2_v2w": {PP: 2, **V2W}}
# The uncertainty head sees whole samples on every rank, unlike all other weights.
LOGVAR = {"model.objective.loss_add_logvar": True}
UNCERTAIN = {
    "tp2_sp_logvar": {TP: 2, SP: True, **LOGVAR},
    "cp2_logvar": {CP: 2, **LOGVAR},
    "pp2_logvar": {PP: 2, **LOGVAR},
}
HALF_PRECISION = {"tp2_sp_bf16": {TP: 2, SP: True, **BF16}, "fsdp2_bf16": {FSDP: True, **BF16}}
UNMARKED = {"tp2_sp_unmarked": {TP: 2, SP: True, "model.unmark": "t_embedder."}}


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("layouts")


@pytest.fixture(scope="module")
def trained(latents, log_dir):
    """A checkpoint of a network whose attention and modulation have left their initial values."""
    settings = {"trainer.max_steps": 15, "optim.config.lr": 2e-2}
    jobs = [job("start", latents, log_dir, settings), job("start_v2w", latents, log_dir, settings | V2W)]
    launch(jobs, num_processes=1)
    return {
        conditioned: checkpoint_folder(log_dir, name, 15)
        for conditioned, name in ((False, "start"), (True, "start_v2w"))
    }


@pytest.fixture(scope="module")
def ran(latents, log_dir, trained):
    """Trains each layout once, all of one size in one start; returns a function ``(layouts, num_processes)``."""
    finished = set()

    def run(layouts: dict, num_processes: int):
        jobs = []
        for name, settings in layouts.items():
            common = {
                "trainer.max_steps": STEPS,
                "trainer.val_check_interval": STEPS,
                "trainer.limit_val_batches": 4,
                "optim.ema_widths": [0.1, 0.05],
                "optim.config.clip_grad": 0.2,
                "resume.restore_config.path": str(trained["model.config.condition_mask" in settings]),
            }
            jobs.append(job(name, latents, log_dir, common | settings))
        todo = [j for j in jobs if j["name"] not in finished]
        finished.update(j["name"] for j in todo)
        if todo:
            launch(todo, num_processes)

    run(ONE_PROCESS, 1)
    return run


@pytest.fixture(scope="module")
def on_two(ran):
    ran(TWO_PROCESSES | CONDITIONED | UNCERTAIN | HALF_PRECISION | UNMARKED, 2)


@pytest.fixture(scope="module")
def on_four(ran):
    ran(FOUR_PROCESSES, 4)


def test_the_reference_run_is_not_trivial(ran, log_dir):
    losses, norms = series(log_dir, "one", "loss"), series(log_dir, "one", "grad_norm")
    assert max(losses.values()) / min(losses.values()) > 1.05
    assert min(norms.values()) > 0.2  # clipping acts
    tensors = stored(checkpoint_folder(log_dir, "one", STEPS))
    assert tensors["decoder.layers.3.adaln_self_attention.linear_2.weight"].abs().mean() > 0.01
    assert not torch.equal(tensors["ema.0.x_embedder.weight"], tensors["x_embedder.weight"])


@pytest.mark.parametrize("name", ["one", "one_v2w", "one_logvar"])
def test_the_reference_runs_have_ema_copies(name, ran, log_dir):
    tensors = stored(checkpoint_folder(log_dir, name, STEPS))
    assert sum(key.startswith("ema.1.") for key in tensors) > 50


@pytest.mark.parametrize("name", [name for name in ONE_PROCESS if name.startswith(("micro", "recompute"))])
def test_one_process_in_other_ways(name, ran, log_dir):
    assert_trained_alike(log_dir, name, "one", STEPS)


@pytest.mark.parametrize("name", TWO_PROCESSES)
def test_two_processes(name, on_two, log_dir):
    assert_trained_alike(log_dir, name, "one", STEPS)


@pytest.mark.parametrize("name", CONDITIONED)
def test_two_processes_video2world(name, on_two, log_dir):
    assert_trained_alike(log_dir, name, "one_v2w", STEPS)


@pytest.mark.parametrize("name", UNCERTAIN)
def test_two_processes_with_learned_uncertainty(name, on_two, log_dir):
    assert_trained_alike(log_dir, name, "one_logvar", STEPS)


@pytest.mark.parametrize("name", FOUR_PROCESSES)
def test_four_processes(name, on_four, log_dir):
    assert_trained_alike(log_dir, name, "one", STEPS)


@pytest.mark.parametrize("name", HALF_PRECISION)
def test_bf16_within_its_rounding(name, on_two, log_dir):
    """One bf16 rounding is 2^-8; the order of sums changes losses by less, bf16 itself by a few of them."""
    assert_close(series(log_dir, name, "loss"), series(log_dir, "one_bf16", "loss"), 2**-8, name)
    assert_close(series(log_dir, "one_bf16", "loss"), series(log_dir, "one", "loss"), 1e-2, "bf16 against fp32")


def test_a_missing_gradient_reduction_is_seen(on_two, log_dir):
    """Negative control: without the mark of one replicated parameter the comparison must fail."""
    with pytest.raises(AssertionError, match="grad_norm|loss"):
        assert_same_series(log_dir, "tp2_sp_unmarked", "one", STEPS)
