# SPDX-License-Identifier: Apache-2.0
"""Shards: split by source video, bounded size, whole or not at all."""

import json
import tarfile

import pytest

from cosmos1.errors import ConfigError, DataError
from data_prep import shard
from tests.data.conftest import write_sample


@pytest.fixture
def cached(tmp_path):
    folder = tmp_path / "cached"
    folder.mkdir()
    for index in range(10):
        write_sample(folder, index, video=f"{index // 2}.mp4")
    return folder


def run(cached, output, *options):
    arguments = ["--input_path", str(cached), "--output_path", str(output), *options]
    shard.main(shard.build_parser().parse_args(arguments))
    return output


def videos_of(output, split):
    found = set()
    for path in output.glob(f"{split}-*.tar"):
        with tarfile.open(path) as archive:
            members = [name for name in archive.getnames() if name.endswith(".json")]
            found |= {json.loads(archive.extractfile(name).read())["video_path"] for name in members}
    return found


def test_splits_share_no_video_and_lose_none(cached, tmp_path):
    output = run(cached, tmp_path / "out", "--val_fraction", "0.4")
    train, held_out = videos_of(output, "train"), videos_of(output, "val")
    assert len(held_out) == 2 and not train & held_out and len(train | held_out) == 5
    facts = json.loads((output / "dataset.json").read_text())
    assert (facts["num_training_samples"], facts["num_validation_samples"]) == (6, 4)


def test_shards_are_bounded_and_repeatable(cached, tmp_path):
    first = run(cached, tmp_path / "a", "--shard_megabytes", "0.05")
    second = run(cached, tmp_path / "b", "--shard_megabytes", "0.05")
    tars = sorted(path.name for path in first.glob("*.tar"))
    assert len(tars) > 2 and all((first / name).stat().st_size < 120_000 for name in tars)
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in tars)


def test_part_names_and_metadata(cached, tmp_path):
    output = run(cached, tmp_path / "out", "--conditioning_latent", "--val_fraction", "0")
    (path,) = output.glob("*.tar")
    with tarfile.open(path) as archive:
        names = archive.getnames()
    assert [name.partition(".")[2] for name in names[:4]] == ["pth", "npy", "json", "cond.pth"]
    assert len({name.partition(".")[0] for name in names[:4]}) == 1
    assert {item.name for item in (output / ".nv-meta").iterdir()} >= {".info.json", "split.yaml", "dataset.yaml"}


def test_output_appears_whole_or_not_at_all(cached, tmp_path):
    (cached / "9.video_latent.pth").write_bytes(b"cut")
    with pytest.raises(DataError, match="9.video_latent.pth"):
        run(cached, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["cached"]


def test_occupied_output_is_refused(cached, tmp_path):
    (tmp_path / "out").mkdir()
    run(cached, tmp_path / "out")
    with pytest.raises(ConfigError, match="is not empty"):
        run(cached, tmp_path / "out")


@pytest.mark.parametrize(
    "kind, reader",
    [
        ("camera folder", "CameraFolderDataModule"),
        ("multiview folder", "MultiviewFolderDataModule"),
        ("new", "its task"),
    ],
)
def test_folders_with_control_signals_are_refused(cached, tmp_path, kind, reader):
    (cached / "dataset.json").write_text(json.dumps({"format": f"cosmos {kind}"}))
    with pytest.raises(DataError, match=f'is a "cosmos {kind}"; only a "cosmos latent folder" can be packed.*{reader}'):
        run(cached, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (cached / "dataset.json").write_text(json.dumps({"format": "cosmos latent folder", "fps": 24}))
    assert json.loads((run(cached, tmp_path / "out") / "dataset.json").read_text())["fps"] == 24
