# SPDX-License-Identifier: Apache-2.0
"""Names, order and retention of checkpoints."""

import json

import pytest

from cosmos1.checkpoint import folders
from cosmos1.errors import CheckpointError, DamagedCheckpoint


def make(folder, step: int, epoch: int = 0, ending: str = ""):
    path = folder / f"{folders.folder_name(epoch, step)}{ending}"
    (path / "weights").mkdir(parents=True)
    (path / "context").mkdir()
    content = f"weights of step {step}".encode()
    (path / "weights/__0_0.distcp").write_bytes(content)
    checksums = {"__0_0.distcp": folders.crc32(path / "weights/__0_0.distcp")}
    (path / "context/checksums.json").write_text(json.dumps(checksums))
    return path


def steps(folder) -> list[int]:
    return [checkpoint.step for checkpoint in folders.complete_checkpoints(folder)]


def test_order_is_by_step_and_unfinished_ones_do_not_count(tmp_path):
    for step in (900, 1000, 50):
        make(tmp_path, step, epoch=step // 100)
    make(tmp_path, 2000, ending=folders.UNFINISHED)
    (tmp_path / "epoch=0-step=3").write_text("a file")
    assert steps(tmp_path) == [50, 900, 1000]
    assert folders.remove_unfinished(tmp_path) == ["removed epoch=0-step=2000.unfinished, left by an interrupted save"]
    assert not list(tmp_path.glob("*unfinished*"))
    assert folders.remove_unfinished(tmp_path) == []


@pytest.mark.parametrize(
    "keep_last_k, keep_every, expected",
    [
        (1, None, "50"),
        (2, None, "40 50"),
        (-1, None, "10 20 30 40 50"),
        (1, 20, "20 40 50"),
        (9, None, "10 20 30 40 50"),
    ],
)
def test_retention(tmp_path, keep_last_k, keep_every, expected):
    for step in (10, 20, 30, 40, 50):
        make(tmp_path, step)
    folders.prune(tmp_path, keep_last_k, keep_every)
    assert steps(tmp_path) == [int(step) for step in expected.split()]
    assert len(list(tmp_path.iterdir())) == len(expected.split())


def test_every_way_to_name_a_checkpoint(tmp_path):
    run = tmp_path / "run"
    make(run / "checkpoints", 5)
    newest = make(run / "checkpoints", 10)
    for path in (run, run / "checkpoints", newest, newest / "weights"):
        found = folders.resolve(path)
        assert (found.step, found.path, found.weights) == (10, newest, newest / "weights")


@pytest.mark.parametrize(
    "name, words",
    [
        ("nowhere", ["does not exist", "epoch=E-step=S"]),
        ("empty", ["holds no checkpoint", "epoch=E-step=S"]),
        ("epoch=0-step=7.unfinished", ["interrupted", "earlier one"]),
    ],
)
def test_paths_that_are_no_checkpoint(tmp_path, name, words):
    (tmp_path / "empty").mkdir()
    make(tmp_path, 7, ending=folders.UNFINISHED)
    with pytest.raises(CheckpointError) as caught:
        folders.resolve(tmp_path / name)
    for word in (name, *words):
        assert word in str(caught.value)


def test_damage_is_found_by_the_rank_that_looks_at_the_file(tmp_path):
    path = make(tmp_path, 7)
    checkpoint = folders.resolve(path)
    assert folders.verify(checkpoint, 0, 1) is None
    (path / "weights/__0_0.distcp").write_bytes(b"weights of step 8")
    assert "__0_0.distcp is damaged" in folders.verify(checkpoint, 0, 2)
    assert folders.verify(checkpoint, 1, 2) is None
    (path / "weights/__0_0.distcp").unlink()
    assert "__0_0.distcp is missing" in folders.verify(checkpoint, 0, 1)


def test_folders_that_cannot_be_deleted_are_named_and_left(tmp_path, monkeypatch):
    """A network file system keeps the files of a reader."""

    def refuse(path):
        raise OSError(39, "Directory not empty", str(path))

    monkeypatch.setattr(folders.shutil, "rmtree", refuse)
    for step in (10, 20):
        make(tmp_path, step)
    [line] = folders.prune(tmp_path, 1, None)
    assert line.startswith("WARNING: the old checkpoint") and "epoch=0-step=10 " in line and "not empty" in line
    assert steps(tmp_path) == [20]
    [line] = folders.remove_unfinished(tmp_path)
    assert line.startswith("WARNING:") and "step=10.unfinished" in line and "not empty" in line


def record(path, text: str, listed: bool):
    """Give a checkpoint the record of its run; early ones have no checksum of it."""
    (path / folders.RECIPE).write_text(text)
    if listed:
        listing = path / "context/checksums.json"
        checksums = json.loads(listing.read_text()) | {folders.RECIPE_ENTRY: folders.crc32(path / folders.RECIPE)}
        listing.write_text(json.dumps(checksums))
    return folders.resolve(path)


@pytest.mark.parametrize("listed", [True, False])
def test_the_record_of_a_run(listed, tmp_path):
    checkpoint = record(make(tmp_path, 7), "data: {path: latents}", listed)
    assert folders.read_recipe(checkpoint) == {"data": {"path": "latents"}}
    assert folders.verify(checkpoint, 0, 1) is None
    for content, words in (
        (bytes(21), "cannot be read"),
        (b"\xff\xfe: 1", "cannot be read"),
        (b"- a list", "is damaged"),
        (None, "cannot be read"),
    ):
        (checkpoint.path / folders.RECIPE).unlink()
        if content is not None:
            (checkpoint.path / folders.RECIPE).write_bytes(content)
        with pytest.raises(DamagedCheckpoint, match=f"step=7 cannot be used: .*recipe.yaml {words}"):
            folders.read_recipe(checkpoint)
        assert (folders.verify(checkpoint, 0, 1) is None) != listed
    assert folders.verify(checkpoint, 0, 1, (folders.RECIPE_ENTRY,)) is None


def test_a_changed_value_in_the_record_is_found_by_its_checksum(tmp_path):
    checkpoint = record(make(tmp_path, 7), "data: {path: latents}", listed=True)
    (checkpoint.path / folders.RECIPE).write_text("data: {path: latentt}")
    with pytest.raises(DamagedCheckpoint, match="recipe.yaml is damaged"):
        folders.read_recipe(checkpoint)
