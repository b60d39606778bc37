# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a run, with optimizer and EMA, as files of the official trainer; and the memory that it takes."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import yaml

from cosmos1.checkpoint.convert import ConvertOptions, convert
from cosmos1.checkpoint.export_callback import ExportPt
from cosmos1.checkpoint.store import CheckpointWriter
from cosmos1.models.diffusion.model import DiffusionModel
from cosmos1.parallel import process_groups
from cosmos1.parallel.strategy import MegatronStrategy
from cosmos1.training.config import MegatronOptimizer
from cosmos1.training.parallel_model import ParallelModel
from cosmos1.training.run_folder import to_plain
from cosmos1.training.run_state import Progress
from tests.checkpoint.conversion import assert_same, native_values, small_config


@pytest.fixture
def model() -> ParallelModel:
    """With fp32 master weights and two EMA copies that differ from them."""
    process_groups.initialize(MegatronStrategy())
    config = small_config(2.0, True)
    model = ParallelModel(DiffusionModel(config, tokenizer="dct"), MegatronStrategy(), "fp32", seed=3)
    model.add_optimizer(MegatronOptimizer(ema_widths=[0.1, 0.05]), "fp32")
    for number, copy in enumerate(model.ema.copies):
        for tensor in copy:
            tensor.mul_(0.5 + number)
    return model


def save(model: ParallelModel, writer: CheckpointWriter, step: int) -> None:
    shards = model.weights_state() | model.optimizer_state()
    state = {f"{name}/{i}": part for name, parts in shards.items() for i, part in enumerate(parts)}
    recipe = yaml.safe_dump({"model": to_plain(model.task)})
    writer.start(f"epoch=0-step={step}", state, {"recipe.yaml": recipe})


def test_the_pt_pair_of_a_run(tmp_path, model):
    writer = CheckpointWriter(tmp_path / "run/checkpoints")
    save(model, writer, 120)
    writer.finish()
    written = convert(tmp_path / "run", tmp_path / "out", "pt", ConvertOptions())
    names = ["iter_000000120_reg_model.pt", "iter_000000120_ema_model.pt", "iter_000000120_RANK1_ema_model.pt"]
    assert [path.name for path in written] == names
    trained = native_values(tmp_path / "run")
    frozen = {name: tensor for name, tensor in trained.items() if name.startswith("logvar.")}
    rounded = {name: tensor.bfloat16() for name, tensor in trained.items()} | frozen
    assert_same(native_values(written[0]), rounded)
    for copy, factor in ((0, 0.5), (1, 1.5)):
        assert_same(native_values(written[1 + copy]), {name: t * factor for name, t in trained.items()} | frozen)
        assert_same(native_values(tmp_path / "run", ema=copy), native_values(written[1 + copy]))
    keys = torch.load(written[1], weights_only=True)
    assert all(key.startswith("net.") or key.startswith("logvar.") for key in keys)
    single = convert(tmp_path / "run", tmp_path / "one.pt", "pt", ConvertOptions(ema=1, dtype="bf16"))
    assert native_values(single[0])["x_embedder.weight"].dtype == torch.bfloat16


def test_the_callback_exports_each_finished_checkpoint_once(tmp_path, model):
    messages: list[str] = []
    run = SimpleNamespace(
        folder=tmp_path,
        writer=CheckpointWriter(tmp_path / "checkpoints"),
        progress=Progress(step=4),
        metrics=SimpleNamespace(message=messages.append),
    )
    callback = ExportPt(every_n_steps=4)
    save(model, run.writer, 4)
    run.writer.finish()
    callback.on_train_start(run)
    for step in (6, 8):
        save(model, run.writer, step)
        run.writer.finish()
        callback.on_step_end(run, {})
    exports = sorted(path.name for path in (tmp_path / "exports").iterdir())
    assert exports == [f"iter_00000000{n}" for n in ("8_RANK1_ema_model.pt", "8_ema_model.pt", "8_reg_model.pt")]
    save(model, run.writer, 9)
    callback.on_train_end(run)
    callback.on_train_end(run)
    assert len(list((tmp_path / "exports").iterdir())) == len(messages) == 6


def test_the_callback_exports_a_checkpoint_before_the_last_one_replaces_it(tmp_path, model):
    run = SimpleNamespace(
        folder=tmp_path,
        writer=CheckpointWriter(tmp_path / "checkpoints", keep_last_k=1),
        progress=Progress(),
        metrics=SimpleNamespace(message=print),
    )
    callback = ExportPt(every_n_steps=4)
    callback.on_train_start(run)
    for step in (4, 5):
        save(model, run.writer, step)
    callback.on_train_end(run)
    exports = sorted(path.name for path in (tmp_path / "exports").glob("*_reg_model.pt"))
    assert exports == ["iter_000000004_reg_model.pt", "iter_000000005_reg_model.pt"]


def test_the_callback_exports_the_last_checkpoint_however_long_it_is_complete(tmp_path, model):
    run = SimpleNamespace(
        folder=tmp_path,
        writer=CheckpointWriter(tmp_path / "checkpoints"),
        progress=Progress(),
        metrics=SimpleNamespace(message=print),
    )
    callback = ExportPt(every_n_steps=4)
    callback.on_train_start(run)
    save(model, run.writer, 6)
    run.writer.finish()
    callback.on_step_end(run, {})
    assert not (tmp_path / "exports").exists()
    callback.on_train_end(run)
    assert (tmp_path / "exports" / "iter_000000006_reg_model.pt").exists()


def test_memory_stays_far_below_the_size_of_the_model(tmp_path):
    config = small_config(1.0, False, hidden_size=1024, num_layers=20, num_attention_heads=8, adaln_lora_dim=64)
    from cosmos1.checkpoint import layouts, networks, writers
    from cosmos1.checkpoint.lazy import LazyTensor

    values = torch.randn(1 << 24).bfloat16()

    def lazy(shape) -> LazyTensor:
        return LazyTensor(shape, torch.bfloat16, lambda: values[: torch.Size(shape).numel()].view(shape))

    native = {name: lazy(shape) for name, shape in networks.expected_shapes(config).items()}
    official = layouts.from_native(native, "official")
    writers.write_pt(tmp_path / "model.pt", {f"net.{n}": t for n, t in official.items()}, lambda num_bytes: None)
    size = (tmp_path / "model.pt").stat().st_size
    assert size > 600 * 2**20
    base = peak_of("import cosmos1.checkpoint.convert")
    assert peak_of(convert_in_child(tmp_path / "model.pt", tmp_path / "dist", "dist")) - base < size / 4
    assert peak_of(convert_in_child(tmp_path / "dist", tmp_path / "back.pt", "pt")) - base < size / 4


def convert_in_child(source, destination, target: str) -> str:
    arguments = ["convert", str(source), str(destination), "--to", target]
    return f"from cosmos1.checkpoint.__main__ import main; assert main({arguments!r}) == 0"


def peak_of(code: str) -> int:
    """Largest resident set in bytes of a process that runs ``code`` (Linux counts it in KiB)."""
    report = "; import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    result = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=True)
    return int(result.stdout.split()[-1]) * 1024
