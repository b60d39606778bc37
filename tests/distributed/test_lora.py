# SPDX-License-Identifier: Apache-2.0
"""Low-rank adapters: a frozen network, the same training under every layout, exact resume, and merged weights."""

import pytest
import torch

from cosmos1.checkpoint.__main__ import main
from cosmos1.checkpoint.formats import open_weights
from tests.distributed.launching import assert_trained_alike, checkpoint_folder, job, launch, series, stored
from tests.distributed.test_layouts import BF16, CP, FSDP, MICRO, PP, RECOMPUTE, SP, TP

pytestmark = pytest.mark.distributed

STEPS, STOP = 4, 2
PATH, ALLOW, NEW = "resume.restore_config.path", "resume.restore_config.allow_missing", "optim.new_layers.names"
# All linear layers of all blocks; those of the text see whole texts also under sequence parallelism.
LORA = {"rank": 4, "alpha": 8.0, "dropout": 0.25, "targets": ["linear_*"]}
LAST = {"trainer.max_steps": STEPS, "trainer.val_check_interval": STEPS, "trainer.limit_val_batches": 4}
# A step so small that nothing changes.
STILL = {"trainer.max_steps": 1, "trainer.val_check_interval": 1, "optim.config.lr": 1e-30}
COMMON = LAST | {"optim.ema_widths": [0.1], "optim.config.clip_grad": 0.2}
ONE_PROCESS = {"dit_recompute": {RECOMPUTE: "selective", MICRO: 1}}
TWO_PROCESSES = {
    "dit_tp2_sp": {TP: 2, SP: True},
    "dit_tp2": {TP: 2},
    "dit_fsdp2": {FSDP: True},
    "dit_pp2": {PP: 2},
    "dit_cp2": {CP: 2, RECOMPUTE: "full"},
    "gpt_tp2_sp": {TP: 2, SP: True, RECOMPUTE: "selective"},
    "gpt_fsdp2": {FSDP: True},
}
FAMILIES = ("dit", "gpt")


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("lora")


@pytest.fixture(scope="module")
def results(latents, log_dir):
    """Two trained networks, and runs with adapters on them; what each rank of the runs on one process reports."""

    def a_job(name: str, settings: dict, **extra) -> dict:
        return job(name, latents, log_dir, settings, family=name[:3], **extra)

    def adapted(name: str, settings: dict, lora=LORA, **extra) -> dict:
        return a_job(name, COMMON | {PATH: str(log_dir / f"{name[:3]}_base" / "run")} | settings, lora=lora, **extra)

    jobs = []
    for family in FAMILIES:
        run = {PATH: str(log_dir / f"{family}_one" / "run")}
        jobs += [
            a_job(f"{family}_base", LAST | {"trainer.max_steps": 6, "optim.config.lr": 2e-2}),
            adapted(f"{family}_one", {}),
            a_job(f"{family}_merged", LAST | STILL | run),
        ]
    jobs += [
        *(adapted(name, settings) for name, settings in ONE_PROCESS.items()),
        a_job("dit_plain", STILL | {PATH: str(log_dir / "dit_base" / "run")}),
        adapted("dit_resumed", {}, stop_at=STOP),
        adapted("dit_resumed+", {"log.name": "dit_resumed"}),
        adapted("dit_new", {NEW: ["x_embedder."], ALLOW: ["final_layer."], **BF16}, LORA | {"dropout": 0.0}),
        adapted("dit_no_dropout", {"trainer.max_steps": 2}, LORA | {"dropout": 0.0}),
        adapted("dit_no_match", {}, LORA | {"targets": ["linear_qkv", "linear_qvk"]}, may_fail=True),
        adapted("dit_untrained", {PATH: ""}, may_fail=True),
        a_job("dit_without", LAST | {"log.name": "dit_one"}, may_fail=True),
    ]
    results = launch(jobs, 1, "tests.distributed.lora_worker")
    jobs = [adapted(name, settings) for name, settings in TWO_PROCESSES.items()]
    one_stage = {"targets": ["decoder.layers.0.*.linear_fc?"]}
    jobs += [
        adapted("dit_unmarked", {TP: 2, SP: True, "model.unmark": ".lora."}),
        adapted("dit_one_stage", {PP: 2}, one_stage, may_fail=True),
    ]
    return results | launch(jobs, 2, "tests.distributed.lora_worker")


def weights(tensors: dict) -> dict:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(("optimizer.", "ema."))}


def is_adapter(name: str) -> bool:
    return ".lora." in name


@pytest.mark.parametrize("name", [*ONE_PROCESS, *TWO_PROCESSES])
def test_trains_as_one_process_does(name, results, log_dir):
    reference = f"{name[:3]}_one"
    assert_trained_alike(log_dir, name, reference, STEPS)


def test_a_missing_gradient_reduction_is_seen(results, log_dir):
    """Negative control: without the marks of replicated adapter weights the comparison must fail."""
    with pytest.raises(AssertionError, match="grad_norm|loss"):
        test_trains_as_one_process_does("dit_unmarked", results, log_dir)


def test_the_first_step_is_that_of_the_base_network(results, log_dir):
    assert series(log_dir, "dit_one", "loss")[1] == series(log_dir, "dit_plain", "loss")[1]


def test_dropout_changes_the_training_alone(results, log_dir):
    """The first loss is that of the base network in both; later ones, and the first gradients, are not the same."""
    first, second = (series(log_dir, f"dit_{run}", "loss") for run in ("one", "no_dropout"))
    assert first[1] == second[1] and first[2] != second[2]


@pytest.mark.parametrize("family", FAMILIES)
def test_only_adapters_change_and_have_optimizer_states(family, results, log_dir):
    before = stored(checkpoint_folder(log_dir, f"{family}_base", 6))
    after = stored(checkpoint_folder(log_dir, f"{family}_one", STEPS))
    for name, tensor in weights(after).items():
        assert is_adapter(name) or torch.equal(tensor, before[name]), name
    adapters = {name for name in after if name.startswith("decoder.") and is_adapter(name)}
    assert len(adapters) == 2 * 4 * 7  # two of self-attention, three of cross-attention, two of the MLP, in four layers
    assert all(after[name].abs().max() > 0 for name in adapters)
    for prefix in ("optimizer.exp_avg.", "optimizer.exp_avg_sq.", "ema.0."):
        assert {name for name in after if name.startswith(prefix)} == {prefix + name for name in adapters}


def test_new_layers_are_trained_in_full(results, log_dir):
    before = stored(checkpoint_folder(log_dir, "dit_base", 6))
    after = stored(checkpoint_folder(log_dir, "dit_new", STEPS))
    changed = {name for name, tensor in weights(after).items() if not is_adapter(name)}
    changed = {name for name in changed if (after[name] - before[name]).norm() > 0.01 * before[name].norm()}
    assert changed == {name for name in before if name.startswith(("x_embedder.", "final_layer."))}


@pytest.mark.parametrize("family", FAMILIES)
def test_held_out_loss_falls(family, results, log_dir):
    losses = (series(log_dir, f"{family}_{run}", "val_loss") for run in ("base", "one"))
    before, after = (next(iter(values.values())) for values in losses)
    assert after < 0.995 * before


def test_a_resumed_run_is_bit_identical(results, log_dir):
    for key in ("loss", "grad_norm", "val_loss"):
        assert series(log_dir, "dit_resumed", key) == series(log_dir, "dit_one", key)
    found, expected = (stored(checkpoint_folder(log_dir, f"dit_{run}", STEPS)) for run in ("resumed", "one"))
    assert found.keys() == expected.keys()
    assert [key for key in expected if not torch.equal(found[key], expected[key])] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_a_plain_network_starts_from_the_merged_weights(family, results, log_dir):
    merged, unmerged = (series(log_dir, f"{family}_{run}", "val_loss") for run in ("merged", "one"))
    assert merged[1] == pytest.approx(unmerged[STEPS], rel=1e-6)
    assert not any(is_adapter(name) for name in stored(checkpoint_folder(log_dir, f"{family}_merged", 1)))


@pytest.mark.parametrize("ema", [None, 0])
def test_conversion_merges(ema, results, log_dir, tmp_path):
    run, tensors = log_dir / "gpt_one" / "run", stored(checkpoint_folder(log_dir, "gpt_one", STEPS))
    copy = [] if ema is None else ["--ema", str(ema)]
    for target in ("pt", "dist"):
        assert main(["convert", str(run), str(tmp_path / f"model.{target}"), "--to", target, *copy]) == 0
        found = open_weights(tmp_path / f"model.{target}").tensors
        assert found.keys() == {name for name in weights(tensors) if not is_adapter(name)}
        for name, tensor in found.items():
            expected, layer = tensors[name], name.removesuffix("weight")
            if f"{layer}lora.a" in tensors:
                prefix = "" if ema is None else f"ema.{ema}."
                a, b = (tensors[f"{prefix}{layer}lora.{matrix}"] for matrix in "ab")
                expected = expected + 2.0 * b @ a
            assert torch.allclose(tensor.load(), expected, rtol=0, atol=1e-6), name


@pytest.mark.parametrize(
    "name, words",
    [
        ("dit_no_match", ["'linear_qvk'", "decoder.layers.*.full_self_attention.linear_qkv"]),
        ("dit_untrained", ["resume.restore_config.path"]),
        ("dit_one_stage", ["pipeline_model_parallel_size=1"]),
        ("dit_without", ["its model_transform is LoRA", "log.version"]),
    ],
)
def test_what_would_train_nothing_is_refused(name, words, results):
    for result in results[name]:
        assert result["error"] == "ConfigError"
        assert all(word in result["message"] for word in words), result["message"]
