# SPDX-License-Identifier: Apache-2.0
"""A run that is stopped and started again ends as one that was never stopped, also under another layout."""

import shutil

import pytest
import torch

from tests.distributed.launching import assert_same_series, checkpoint_folder, job, launch, series, stored
from tests.distributed.test_layouts import BF16, CP, FSDP, PP, SP, TP, V2W

pytestmark = pytest.mark.distributed

STEPS, STOP = 6, 3
COMMON = {
    "trainer.max_steps": STEPS,
    "optim.ema_widths": [0.1],
    "optim.lr_scheduler.policy": "cosine",
    "optim.lr_scheduler.warmup_steps": 2,
}
TWO_PROCESSES = {
    "dp2": {},
    "pp2": {PP: 2},
    "fsdp2": {FSDP: True},
    "tp2_sp_bf16": {TP: 2, SP: True, **BF16},
    "cp2_v2w": {CP: 2, **V2W},
}
# Saved under one layout and continued under another: (saved on, settings, continued on, settings).
MOVES = {
    "tp2_sp_to_one": (2, {TP: 2, SP: True}, 1, {}),
    "one_to_fsdp2": (1, {}, 2, {FSDP: True}),
    "pp2_to_dp2": (2, {PP: 2}, 2, {}),
    "fsdp2_to_cp2": (2, {FSDP: True}, 2, {CP: 2}),
    "fsdp2_tp2_to_tp2": (4, {FSDP: True, TP: 2, SP: True}, 2, {TP: 2}),
}
LEFT_OUT = "decoder.layers.3."


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("resume")


@pytest.fixture(scope="module")
def stopped(latents, log_dir):
    """Unbroken runs, and runs that SIGTERM on one rank has ended at step 3. All processes must leave with status 0."""

    def jobs(num_processes: int) -> list[dict]:
        return [
            job(name, latents, log_dir, COMMON | settings, stop_at=STOP)
            for name, (saved_on, settings, _, _) in MOVES.items()
            if saved_on == num_processes
        ]

    one = job("one", latents, log_dir, COMMON)
    half_network = job("three_layers", latents, log_dir, {"trainer.max_steps": 1, "model.config.num_layers": 3})
    launch([one, half_network, *jobs(1)], 1)
    unbroken = [job(f"{name}_unbroken", latents, log_dir, COMMON | s) for name, s in TWO_PROCESSES.items()]
    broken = [
        job(name, latents, log_dir, COMMON | settings, stop_at=STOP, stop_rank=1)
        for name, settings in TWO_PROCESSES.items()
    ]
    launch([*unbroken, *broken, *jobs(2)], 2)
    launch(jobs(4), 4)
    for name in (*TWO_PROCESSES, *MOVES):
        assert list(series(log_dir, name, "loss")) == [1, 2, 3]
        shutil.copytree(checkpoint_folder(log_dir, name, STOP), log_dir / "kept" / name / f"epoch=0-step={STOP}")


@pytest.fixture(scope="module")
def resumed(latents, log_dir, stopped):
    """The stopped runs, started again; what each rank reports, by name."""
    again = [job(name, latents, log_dir, COMMON | settings) for name, settings in TWO_PROCESSES.items()]
    results = {}
    for num_processes, jobs in ((1, []), (2, again)):
        for name, (_, _, continued_on, settings) in MOVES.items():
            if continued_on == num_processes:
                jobs.append(job(name, latents, log_dir, COMMON | settings))
        results |= launch(jobs, num_processes)
    return results


@pytest.mark.parametrize("name", TWO_PROCESSES)
def test_a_resumed_run_is_bit_identical(name, resumed, log_dir):
    for key in ("loss", "grad_norm", "lr"):
        assert series(log_dir, name, key) == series(log_dir, f"{name}_unbroken", key)
    found, expected = (stored(checkpoint_folder(log_dir, run, STEPS)) for run in (name, f"{name}_unbroken"))
    assert found.keys() == expected.keys()
    assert [key for key in expected if not torch.equal(found[key], expected[key])] == []


@pytest.mark.parametrize("name", MOVES)
def test_a_run_continues_under_another_layout(name, resumed, log_dir):
    assert_same_series(log_dir, name, "one", STEPS, ("loss", "grad_norm", "lr"))
    found, expected = (stored(checkpoint_folder(log_dir, run, STEPS)) for run in (name, "one"))
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert (found[key] - tensor).norm() <= 1e-3 * tensor.norm(), key


@pytest.mark.parametrize("name", [*TWO_PROCESSES, *MOVES])
def test_the_optimizer_counts_every_step(name, resumed):
    assert {tuple(result["optimizer_steps"]) for result in resumed[name]} == {(STEPS,)}


@pytest.fixture(scope="module")
def restored(latents, log_dir, stopped):
    """Runs that take only weights from a checkpoint, and those that are refused."""
    source = log_dir / "kept" / "one_to_fsdp2"
    path, ema, allow = (f"resume.restore_config.{name}" for name in ("path", "ema", "allow_missing"))
    # A step so small that the saved weights are those that were restored.
    settings = {"trainer.max_steps": 1, "optim.config.lr": 1e-30, "optim.config.weight_decay": 0.0, path: str(source)}
    short = {path: str(log_dir / "three_layers" / "run")}
    return launch(
        [
            job("weights", latents, log_dir, settings),
            job("weights_ema", latents, log_dir, settings | {ema: 0}),
            job("weights_tp2", latents, log_dir, settings | {TP: 2, ema: 0}),
            job("no_such_ema", latents, log_dir, settings | {ema: 1}, may_fail=True),
            job("missing", latents, log_dir, settings | short, may_fail=True),
            job("allowed", latents, log_dir, settings | short | {allow: [LEFT_OUT]}),
            job("unexpected", latents, log_dir, settings | {"model.config.num_layers": 2}, may_fail=True),
            job("nowhere", latents, log_dir, settings | {path: str(source / "nowhere")}, may_fail=True),
            job("other_shape", latents, log_dir, settings | {"model.config.mlp_ratio": 2}, may_fail=True),
        ],
        2,
    )


def weight_names(tensors: dict) -> list[str]:
    return [name for name in tensors if not name.startswith(("optimizer.", "ema."))]


@pytest.mark.parametrize("name, prefix", [("weights", ""), ("weights_ema", "ema.0."), ("weights_tp2", "ema.0.")])
def test_weights_only_restore_starts_at_step_zero(name, prefix, restored, log_dir):
    source = stored(log_dir / "kept" / "one_to_fsdp2" / f"epoch=0-step={STOP}")
    found = stored(checkpoint_folder(log_dir, name, 1))
    assert len(weight_names(found)) > 50
    for key in weight_names(found):
        assert torch.equal(found[key], source[prefix + key if prefix + key in source else key]), key
    assert not torch.equal(source["x_embedder.weight"], source["ema.0.x_embedder.weight"])
    assert list(series(log_dir, name, "loss")) == [1]
    assert {tuple(result["optimizer_steps"]) for result in restored[name]} == {(1,)}


def test_layers_that_may_be_missing_keep_their_initial_values(restored, log_dir):
    source = stored(checkpoint_folder(log_dir, "three_layers", 1))
    found = stored(checkpoint_folder(log_dir, "allowed", 1))
    kept = [key for key in weight_names(found) if key.startswith(LEFT_OUT)]
    assert kept and not any(key in source for key in kept)
    assert torch.equal(found["x_embedder.weight"], source["x_embedder.weight"])
    assert found[LEFT_OUT + "mlp.linear_fc1.weight"].std() > 0.05
    assert found[LEFT_OUT + "adaln_mlp.linear_2.weight"].abs().max() < 1e-20


@pytest.mark.parametrize(
    "name, words",
    [
        ("missing", [LEFT_OUT, "allow_missing", "missing"]),
        ("unexpected", ["unexpected", LEFT_OUT[:-2]]),
        ("no_such_ema", ["EMA copy 1", "resume.restore_config.ema"]),
        ("nowhere", ["nowhere", "does not exist"]),
        ("other_shape", ["mlp.linear_fc"]),
    ],
)
def test_weights_that_do_not_fit_are_refused(name, words, restored, log_dir):
    assert {result["error"] for result in restored[name]} == {"CheckpointError"}
    for word in words:
        assert word in restored[name][0]["message"]
    assert not (log_dir / name / "run" / "metrics.jsonl").exists()
