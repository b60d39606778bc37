# SPDX-License-Identifier: Apache-2.0
"""Networks with control signals train under every parallel layout as in one process."""

import json

import pytest
import torch

from cosmos1.models.diffusion.generation import GivenFrames, Prompt
from tests.distributed.launching import assert_trained_alike, checkpoint_folder, run_ranks, series, stored
from tests.distributed.test_layouts import CP, FSDP, PP, SP, TP, VPP
from tests.distributed.variant_worker import FRAMES, HEIGHT, NUM_VIEWS, WIDTH

pytestmark = pytest.mark.distributed

STEPS = 5
LAYOUTS = {"tp2_sp": {TP: 2, SP: True}, "cp2": {CP: 2}, "pp2": {PP: 2}}
SIGNALS = ("action", "camera", "views", "views_shared_text", "trajectory", "tokenizer")
CASES = [(signals, layout) for signals in SIGNALS for layout in LAYOUTS]
MORE_LAYOUTS = {"fsdp2": {FSDP: True}, "pp2_virtual": {PP: 2, VPP: 2}, "dp2": {}}
CASES += [("all", layout) for layout in MORE_LAYOUTS]
# New layers train alone for three of the five steps.
ALONE = 3
STAGED = {
    "optim.new_layers.names": ["x_embedder.", "action."],
    "optim.new_layers.alone_steps": ALONE,
    "optim.new_layers.lr_multiplier": 2.0,
    "log.ckpt.every_n_train_steps": 1,
}
STAGED_LAYOUTS = ("tp2_sp", "cp2", "pp2", "fsdp2", "dp2")
CASES += [("staged", layout) for layout in STAGED_LAYOUTS]


def launch(cases: dict, num_processes: int, log_dir) -> None:
    """Run ``{name: (signals, settings)}`` on ``num_processes`` ranks; ``name+more`` continues the run ``name``."""
    common = {
        "log.log_dir": str(log_dir),
        "trainer.max_steps": STEPS,
        "trainer.val_check_interval": STEPS,
        "trainer.limit_val_batches": 2,
    }
    jobs = [
        {"name": name, "signals": signals, "set": common | {"log.name": name.split("+")[0]} | settings}
        for name, (signals, settings) in cases.items()
    ]
    folder = log_dir / f"ranks{num_processes}"
    folder.mkdir()
    plan = folder / "plan.json"
    plan.write_text(json.dumps({"store": str(folder / "store"), "jobs": jobs}))
    run_ranks("tests.distributed.variant_worker", [plan], num_processes, folder)


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("variants")
    alone = {f"{signals}_one": (signals, {}) for signals in (*SIGNALS, "all")}
    alone["staged_one"] = ("action", STAGED)
    alone["staged_resumed"] = ("action", STAGED | {"trainer.max_steps": 2, "trainer.val_check_interval": 0})
    alone["staged_resumed+"] = ("action", STAGED)
    launch(alone, 1, folder)
    layouts = LAYOUTS | MORE_LAYOUTS
    shared = {
        f"{signals}_{layout}": (signals, layouts[layout])
        if signals != "staged"
        else ("action", STAGED | layouts[layout])
        for signals, layout in CASES
    }
    launch(shared, 2, folder)
    return folder


@pytest.mark.parametrize("signals, layout", CASES)
def test_trains_as_one_process_does(signals, layout, log_dir):
    name, reference = f"{signals}_{layout}", f"{signals}_one"
    assert_trained_alike(log_dir, name, reference, STEPS)


def test_other_weights_wait_while_new_layers_train_alone(log_dir):
    after = {step: stored(checkpoint_folder(log_dir, "staged_one", step)) for step in (1, ALONE, STEPS)}
    for name in after[STEPS]:
        if name.startswith(("optimizer.", "ema.", "logvar.")):
            continue
        is_new = name.startswith(("x_embedder.", "action."))
        assert torch.equal(after[1][name], after[ALONE][name]) != is_new, name
        assert not torch.equal(after[ALONE][name], after[STEPS][name]), name


def test_new_layers_go_on_alone_after_a_resume(log_dir):
    assert series(log_dir, "staged_resumed", "loss") == series(log_dir, "staged_one", "loss")
    found, expected = (stored(checkpoint_folder(log_dir, f"staged_{run}", STEPS)) for run in ("resumed", "one"))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_signals_have_taken_part(log_dir):
    tensors = stored(checkpoint_folder(log_dir, "all_one", STEPS))
    for name in ("action.to_embedding.linear_2.weight", "views.repeat_frame.bias", "trajectory.linear.bias"):
        assert tensors[name].abs().max() > 1e-3, name
        assert tensors[f"optimizer.exp_avg.{name}"].abs().max() > 0, name


def prompt_with_signals(seed: int) -> Prompt:
    """Given frames and text are always the same; the signals are those of ``seed``."""
    frames, fixed, drawn = NUM_VIEWS * FRAMES, torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    signals = {
        "action": torch.randn(1, 2, 3, generator=drawn),
        "plucker_embeddings": torch.randn(1, frames, 6, HEIGHT, WIDTH, generator=drawn),
        "view_indices": torch.randperm(NUM_VIEWS, generator=drawn)[None],
        "frame_repeat": torch.zeros(1, NUM_VIEWS),
        "trajectory": torch.randn(1, 192, generator=drawn),
    }
    text = torch.randn(1, NUM_VIEWS * 16, 1024, generator=fixed)
    given = GivenFrames(torch.randn(1, 16, frames, HEIGHT, WIDTH, generator=fixed), 1)
    return Prompt(text, 24.0, controls=signals, given=given)


def test_generates_as_one_process_does(log_dir, tmp_path):
    torch.save(
        ([16, NUM_VIEWS * FRAMES, HEIGHT, WIDTH], [prompt_with_signals(1), prompt_with_signals(2)]),
        tmp_path / "prompts.pt",
    )
    checkpoint, latents = checkpoint_folder(log_dir, "all_one", STEPS), []
    for tp_size, cp_size in ((1, 1), (2, 1), (1, 2)):
        arguments = [tmp_path / "latents.pt", tp_size, cp_size, checkpoint, tmp_path / "prompts.pt"]
        run_ranks("tests.distributed.generation_worker", arguments, tp_size * cp_size, tmp_path)
        latents.append(torch.load(tmp_path / "latents.pt"))
    alone, *shared = latents
    tolerance = 1e-4 * alone.abs().max()
    assert (alone[0] - alone[1]).abs().max() > 100 * tolerance
    assert all((each - alone).abs().max() < tolerance for each in shared)
