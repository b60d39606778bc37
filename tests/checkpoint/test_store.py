# SPDX-License-Identifier: Apache-2.0
"""Which failures of a save are those of all ranks, and which are none."""

import json

import pytest
from megatron.core.dist_checkpointing.strategies.common import TorchCommonSaveStrategy

from cosmos1.checkpoint import folders
from cosmos1.checkpoint.store import CheckpointWriter
from cosmos1.parallel import process_groups
from cosmos1.parallel.strategy import MegatronStrategy
from cosmos1.training.save_attempts import SaveAttempts

CONTEXT = {"recipe.yaml": "data: {path: latents}"}


@pytest.fixture(autouse=True)
def one_process():
    process_groups.initialize(MegatronStrategy())


def test_a_failure_of_one_rank_alone_ends_it(tmp_path, monkeypatch):
    """Rank 0 writes common.pt while the others plan: it must not train on while they wait for it."""

    def no_space(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TorchCommonSaveStrategy, "save_common", no_space)
    saves = SaveAttempts(tmp_path, max_failed_saves=10, message=print)
    with pytest.raises(RuntimeError, match="step=1.unfinished was not saved: .*No space left"), saves.attempt():
        CheckpointWriter(tmp_path).start("epoch=0-step=1", {"progress": 1}, CONTEXT)
    assert not list(tmp_path.iterdir())


def test_an_old_checkpoint_that_cannot_be_deleted_is_no_failure_of_the_new_one(tmp_path, monkeypatch):
    def refuse(path, **options):
        raise OSError(39, "Directory not empty", str(path))

    lines: list[str] = []
    writer = CheckpointWriter(tmp_path, keep_last_k=1, message=lines.append)
    writer.start("epoch=0-step=1", {"progress": 1}, CONTEXT)
    writer.finish()
    writer.start("epoch=0-step=2", {"progress": 2}, CONTEXT)
    monkeypatch.setattr(folders, "shutil", type("Shutil", (), {"rmtree": staticmethod(refuse)}))
    assert writer.finish() == tmp_path / "epoch=0-step=2"
    assert [checkpoint.step for checkpoint in folders.complete_checkpoints(tmp_path)] == [2]
    assert len(lines) == 1 and "epoch=0-step=1 cannot be deleted" in lines[0]


def test_the_record_of_the_run_has_a_checksum(tmp_path):
    writer = CheckpointWriter(tmp_path)
    writer.start("epoch=0-step=1", {"progress": 1}, CONTEXT)
    checkpoint = folders.resolve(writer.finish())
    listing = json.loads((checkpoint.context / "checksums.json").read_text())
    assert listing[folders.RECIPE_ENTRY] == folders.crc32(checkpoint.context / "recipe.yaml")
