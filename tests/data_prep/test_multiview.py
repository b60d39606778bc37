# SPDX-License-Identifier: Apache-2.0
"""Multi-view data: views in the order of the rig, text per view, trajectories, view dropout, and each bad input."""

import json
import re
import shutil

import numpy as np
import pytest
import torch

from cosmos1.conditioning.settings import ViewConditioning
from cosmos1.data.geometry.trajectories import EgoTrack, drive, track_json
from cosmos1.data.modules.multiview_folder import MultiviewFolderDataModule
from cosmos1.data.modules.token_folder import MultiviewTokensDataModule
from cosmos1.data.preparing.view_text import multiview_text, read_view_embedding
from cosmos1.data.video import frames_to_tensor, read_video, write_video
from cosmos1.errors import ConfigError, DataError
from cosmos1.models.diffusion.config import DiTConfig
from cosmos1.models.diffusion.model import DiffusionModel
from cosmos1.models.tokenizers.text import build_text_encoder
from cosmos1.models.tokenizers.video import build_video_tokenizer
from cosmos1.training.config import Logger, MegatronOptimizer, Trainer
from cosmos1.training.train import train
from data_prep import multiview
from tests.data_prep.test_prepare_dataset import damage

VIEWS = ["front", "left", "rear"]
SMALL = ["--num_frames", "9", "--height", "32", "--width", "48", "--fps", "12"]
NUM_CLIPS = 4


def moving_noise(seed, num_frames=14):
    """Noise that drifts, so that every frame differs."""
    noise = np.random.RandomState(seed).randint(0, 255, (4, 6 + num_frames, 3)).astype(np.uint8)
    frames = np.stack([noise[:, k : k + 6] for k in range(num_frames)])
    return frames.repeat(8, axis=1).repeat(8, axis=2)


def write_track(path, seconds=9.0, speed=10.0):
    times = np.arange(int(seconds * 20) + 1) / 20
    poses = drive(times, speed, 0.0, 0.0)
    quaternions = np.tile([1.0, 0, 0, 0], (len(times), 1))
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(track_json(EgoTrack((times * 1e6).astype(np.int64), poses[:, :3, 3], quaternions))))


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Four clips of three cameras; the rear has no caption; clip 3 has a short ego track."""
    folder = tmp_path_factory.mktemp("recordings")
    cameras = [{"name": name, "description": f"Camera {name}."} for name in VIEWS]
    (folder / "rig.json").write_text(json.dumps({"cameras": cameras}))
    for clip in range(NUM_CLIPS):
        for view, camera in enumerate(VIEWS):
            write_video(folder / f"videos/{camera}/{clip}.mp4", moving_noise(10 * clip + view), 12)
            caption = folder / f"captions/{camera}/{clip}.txt"
            caption.parent.mkdir(parents=True, exist_ok=True)
            if camera != "rear":
                caption.write_text(f"Clip {clip} seen to the {camera}.\n")
        write_track(folder / f"trajectory/{clip}.json", seconds=4 if clip == 3 else 9)
    return folder


def prepare(recordings, output, *options):
    arguments = ["--dataset_path", str(recordings), "--output_path", str(output), *SMALL, *options]
    multiview.main(multiview.build_parser().parse_args(arguments))
    return output


@pytest.fixture(scope="module")
def prepared(recordings, tmp_path_factory):
    return prepare(recordings, tmp_path_factory.mktemp("cached") / "out", "--require_trajectory")


def prepare_tokens(recordings, output):
    return prepare(recordings, output, "--tokenizer", "dct_fsq")


def load(folder, module_class=MultiviewFolderDataModule, **fields):
    module = module_class(str(folder), **{"num_workers": 0, "validation_fraction": 0.0, **fields})
    module.setup()
    return module


def batches(module, count, consumed=0):
    return [batch for _, batch in zip(range(count), module.train_batches(0, 1, consumed))]


def test_batch_has_the_documented_keys_shapes_and_types(prepared):
    (batch,) = batches(load(prepared, micro_batch_size=2, global_batch_size=2, with_trajectory=True), 1)
    expected = {
        "video": ((2, 16, 6, 4, 6), torch.bfloat16),
        "t5_text_embeddings": ((2, 1536, 1024), torch.bfloat16),
        "t5_text_mask": ((2, 1536), torch.bfloat16),
        "fps": ((2,), torch.float32),
        "num_frames": ((2,), torch.int64),
        "image_size": ((2, 4), torch.int64),
        "padding_mask": ((2, 1, 4, 6), torch.float32),
        "sample_position": ((2,), torch.int64),
        "view_indices": ((2, 3), torch.int64),
        "frame_repeat": ((2, 3), torch.float32),
        "trajectory": ((2, 192), torch.float32),
    }
    assert {key: (tuple(value.shape), value.dtype) for key, value in batch.items()} == expected
    assert batch["view_indices"].tolist() == [[0, 1, 2]] * 2


def test_views_follow_one_another_each_encoded_for_itself(recordings, prepared):
    tokenizer = build_video_tokenizer("dct", dtype=torch.bfloat16)
    info = json.loads((prepared / "1.info.json").read_text())
    start = info["start_frame"]
    views = [frames_to_tensor(read_video(recordings / f"videos/{view}/1.mp4")[start : start + 9]) for view in VIEWS]
    expected = torch.cat([tokenizer.encode(view)[0] for view in views], dim=1)
    assert info["views"] == VIEWS and info["video_path"] == "1"
    assert torch.equal(torch.load(prepared / "1.video_latent.pth"), expected)


def test_text_of_a_view_is_its_camera_then_its_caption(prepared):
    encoder = build_text_encoder("hashed")
    text, mask = (torch.load(prepared / f"2.t5_text_{part}.pth") for part in ("embeddings", "mask"))
    text, mask = text.reshape(3, 512, 1024), mask.reshape(3, 512)
    for view, sentences in enumerate(
        (["Camera front.", "Clip 2 seen to the front."], ["Camera left.", None], ["Camera rear."])
    ):
        sentences = [sentence or "Clip 2 seen to the left." for sentence in sentences]
        embeddings, lengths = encoder.encode(sentences)
        rows = torch.cat([rows[:length] for rows, length in zip(embeddings, lengths)]).bfloat16()
        assert torch.equal(text[view, : len(rows)], rows) and text[view, len(rows) :].abs().max() == 0
        assert mask[view].tolist() == [1] * len(rows) + [0] * (512 - len(rows))


def test_trajectory_of_a_straight_drive(prepared):
    (batch,) = batches(load(prepared, with_trajectory=True), 1)
    numbers = batch["trajectory"].reshape(64, 3)
    assert torch.allclose(numbers[:, 0], torch.arange(1, 65) / 10, atol=1e-5) and numbers[:, 1:].abs().max() < 1e-6


def test_clips_without_a_long_enough_track(recordings, tmp_path, capsys):
    prepare(recordings, tmp_path / "a", "--require_trajectory")
    printed = capsys.readouterr().out
    assert "3 clips used, 1 left out" in printed and "clip 3: ego motion is needed from" in printed
    output = prepare(recordings, tmp_path / "b")
    printed = capsys.readouterr().out
    assert re.search(r"clip 3: ego motion is needed from .* \(1 of its 1 samples have no trajectory\)", printed)
    assert "4 clips with ego motion" in printed and "3 of 4 samples have a trajectory" in printed
    assert not (output / "3.trajectory.pth").exists() and (output / "2.trajectory.pth").exists()
    with pytest.raises(DataError, match="1 of 4 samples have no trajectory, the first is sample 3 .*--require_traj"):
        load(output, with_trajectory=True)
    with pytest.raises(DataError, match="1 of 4 samples have no trajectory"):
        load(prepare_tokens(recordings, tmp_path / "c"), MultiviewTokensDataModule, with_trajectory=True)


def test_ego_motion_of_no_use_counts_only_where_trajectories_are_required(recordings, tmp_path, capsys):
    folder = copy_of(recordings, tmp_path)
    (folder / "trajectory/0.json").write_text('{"poses": []}')
    (folder / "trajectory/1.json").unlink()

    def planned(*options):
        arguments = multiview.build_parser().parse_args(["--dataset_path", str(folder), *SMALL, *options])
        rig = multiview.choose_rig(arguments)
        arguments.tokenizer, arguments.text_encoder = "dct", "hashed"
        multiview.print_plan(arguments, rig, *multiview.plan(arguments, rig))
        return capsys.readouterr().out

    printed = planned()
    assert "0.json: 0 ego poses, at least 2 are needed." in printed and "4 clips used, 0 left out" in printed
    assert "2 clips with ego motion" in printed
    printed = planned("--require_trajectory")
    assert "0.json: 0 ego poses, at least 2 are needed. (--require_trajectory); skipped." in printed
    assert "clip 1: no ego motion was recorded with it (--require_trajectory); skipped." in printed
    assert "1 clips used, 3 left out" in printed


def test_shared_text(recordings, tmp_path):
    output = prepare(recordings, tmp_path / "out", "--shared_text")
    (batch,) = batches(load(output, shuffle=False, views_per_sample=2), 1)
    expected = build_text_encoder("hashed").encode(["Clip 0 seen to the front."])[0].bfloat16()
    assert torch.equal(batch["t5_text_embeddings"], expected) and batch["t5_text_mask"].shape == (1, 512)


def test_views_are_dropped_by_position_with_all_that_belongs_to_them(prepared):
    whole = {int(b["sample_position"]): b for b in batches(load(prepared), 24)}
    fewer = load(prepared, views_per_sample=2)
    assert fewer.sample_shape == [16, 4, 4, 6]
    seen = set()
    for batch in batches(fewer, 24):
        full, kept = whole[int(batch["sample_position"])], batch["view_indices"][0].tolist()
        seen.add(tuple(kept))
        assert torch.equal(batch["video"].unflatten(2, (2, 2)), full["video"].unflatten(2, (3, 2))[:, :, kept])
        text = full["t5_text_embeddings"].unflatten(1, (3, 512))[:, kept].flatten(1, 2)
        assert torch.equal(batch["t5_text_embeddings"], text) and batch["frame_repeat"].shape == (1, 2)
    assert seen == {(0, 1), (0, 2), (1, 2)}
    again = batches(load(prepared, views_per_sample=2), 3, consumed=9)
    assert [b["view_indices"].tolist() for b in again] == [b["view_indices"].tolist() for b in batches(fewer, 12)[9:]]
    held_out = load(prepared, views_per_sample=2, validation_fraction=0.3)
    assert [b["view_indices"].tolist() for b in held_out.validation_batches(0, 1)] == [[[0, 1]]]


def test_names_decide_the_rows_of_the_view_embedding(prepared):
    module = load(prepared, cameras=["rear", "extra", "left", "front"])
    (batch,) = batches(module, 1)
    assert batch["view_indices"].tolist() == [[3, 2, 0]]
    with pytest.raises(DataError, match="has the views rear, but data.cameras are front, left .2 views."):
        load(prepared, cameras=["front", "left"])
    with pytest.raises(ConfigError, match="data.views_per_sample=4: the samples of .* have 3 views"):
        load(prepared, views_per_sample=4)


@pytest.mark.parametrize(
    "views, words",
    [
        (ViewConditioning(num_views=2), r"has 3 views .front, left, rear., this network is built for 2; .*num_views=3"),
        (None, "has samples of 3 views, this network knows none"),
    ],
)
def test_more_views_than_the_network_has_are_refused_before_it_is_built(prepared, views, words):
    # Of a width that could not be built within minutes.
    config = DiTConfig(hidden_size=65536, num_layers=96, num_attention_heads=512, views=views)
    data = MultiviewFolderDataModule(str(prepared), num_workers=0, validation_fraction=0.0)
    with pytest.raises(ConfigError, match=words):
        train(DiffusionModel(config=config, tokenizer="dct"), data, Trainer(), MegatronOptimizer(), Logger())


@pytest.mark.parametrize(
    "part, change, words",
    [
        ("trajectory", lambda t: t[:64], r"0.trajectory.pth: has shape \(64,\), \(192,\)"),
        ("frame_repeat", lambda t: t[:2], r"0.frame_repeat.pth: has shape \(2,\), \(3,\)"),
        ("t5_text_embeddings", lambda t: t[:, :768], r"text embeddings \(1536, 768\)"),
        ("t5_text_embeddings", lambda t: t[:1024], r"512 rows for each of 3 views"),
        ("video_latent", lambda t: t[:, :5], "5 latent frames"),
    ],
)
def test_damaged_samples(prepared, tmp_path, part, change, words):
    folder = shutil.copytree(prepared, tmp_path / "copy")
    torch.save(change(torch.load(folder / f"0.{part}.pth")).clone(), folder / f"0.{part}.pth")
    with pytest.raises(DataError, match=words):
        load(folder, with_trajectory=True)


def copy_of(recordings, tmp_path):
    return shutil.copytree(recordings, tmp_path / "copy")


def test_bad_clips_are_left_out_and_named(recordings, tmp_path, capsys):
    folder = copy_of(recordings, tmp_path)
    (folder / "videos/rear/0.mp4").unlink()
    write_video(folder / "videos/left/1.mp4", moving_noise(0)[:, :16], 12)
    write_video(folder / "videos/left/2.mp4", moving_noise(0)[:5], 12)
    (folder / "timestamps/left").mkdir(parents=True)
    (folder / "timestamps/left/3.json").write_text("[1, 2, 3]")
    with pytest.raises(DataError) as error:
        prepare(folder, tmp_path / "out")
    message = str(error.value)
    assert "clip 0: no video of rear; cameras present: front, left." in message
    assert "clip 1: left is 16 x 48 at 12 fps, front is 32 x 48" in message
    assert "clip 2: the cameras share 5 frames of front, too few for a chunk of 9" in message
    assert "clip 3: left has 3 time stamps but 14 frames" in message and "4 of 4 clips cannot be used" in message
    with pytest.raises(DataError, match="clip 0: no video of rear"):
        prepare(folder, tmp_path / "out", "--strict")
    assert not (tmp_path / "out").exists()


def test_clips_without_captions_or_cameras(recordings, tmp_path):
    folder = copy_of(recordings, tmp_path)
    for path in (folder / "captions").rglob("0.txt"):
        path.write_text(" \n")
    (folder / "captions/left/1.txt").write_bytes(b"\xff")
    with pytest.raises(DataError, match="clip 0: no view has a caption"):
        prepare(folder, tmp_path / "out", "--strict")
    (folder / "captions/front/0.txt").write_text("One view is enough.")
    with pytest.raises(DataError, match="left/1.txt: cannot be read as a caption in UTF-8"):
        prepare(folder, tmp_path / "out", "--strict")
    shutil.rmtree(folder / "captions")
    with pytest.raises(DataError, match="clip 0: no view has a caption. Write captions/0.txt"):
        prepare(folder, tmp_path / "out")
    with pytest.raises(
        DataError, match="no videos/<camera>/<clip>.mp4 of the rig's cameras .*found: front, left, rear"
    ):
        prepare(folder, tmp_path / "out", "--rig", "six_cameras")
    (folder / "captions").mkdir()
    for clip in range(NUM_CLIPS):
        (folder / f"captions/{clip}.txt").write_text("For all views.")
    output = prepare(folder, tmp_path / "out")
    assert json.loads((output / "0.info.json").read_text())["captions"] == dict.fromkeys(VIEWS, "For all views.")


def test_a_damaged_view_is_named_and_the_other_clips_are_used(recordings, tmp_path, capsys):
    folder = copy_of(recordings, tmp_path)
    damage(folder / "videos/left/1.mp4")
    output = prepare(folder, tmp_path / "out")
    assert "left/1.mp4: decoding stopped after" in capsys.readouterr().out
    used = [json.loads(path.read_text())["video_path"] for path in sorted(output.glob("*.info.json"))]
    assert used == ["0", "2", "3"]


@pytest.mark.parametrize("option", ["--caption_tars", "--view_embeddings_dir"])
def test_given_rows_need_the_same_encoder_for_the_other_texts(recordings, tmp_path, option):
    with pytest.raises(ConfigError, match=f"--text_encoder hashed: {option} holds T5 rows, and a folder has one"):
        prepare(recordings, tmp_path / "out", option, str(tmp_path), "--text_encoder", "hashed")


def test_view_embedding_files(tmp_path):
    rows = torch.zeros(1, 512, 1024)
    rows[0, :7] = 1
    torch.save(rows, tmp_path / "a.pt")
    assert read_view_embedding(tmp_path / "a.pt").shape == (7, 1024)
    torch.save(rows[0, :, :768].clone(), tmp_path / "b.pt")
    with pytest.raises(DataError, match=r"b.pt: has shape \(512, 768\)"):
        read_view_embedding(tmp_path / "b.pt")
    with pytest.raises(DataError, match="there is no such view embedding. Without --view_embeddings_dir"):
        read_view_embedding(tmp_path / "c.pt")


def test_text_is_cut_to_512_rows():
    description = torch.ones(10, 1024).bfloat16()
    text, mask = multiview_text([description], [np.full((600, 1024), 0.5, np.float16)], None)
    assert text.shape == (512, 1024) and mask.min() == 1 and text[10, 0] == 0.5
