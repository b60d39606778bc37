# SPDX-License-Identifier: Apache-2.0
"""Windows of raw Bridge pixels: shapes, numbers, order, and refused settings."""

import json
import shutil
from itertools import islice

import pytest
import torch

from cosmos1.data.modules.bridge_pixels import BridgePixelsDataModule
from cosmos1.data.sources.bridge import actions_between, read_episodes
from cosmos1.data.video import frames_to_tensor, read_video, resize_frames, write_video
from cosmos1.errors import ConfigError, DataError
from tests.data.arm_tree import arm_tree, change, read


@pytest.fixture
def tree(tmp_path, tmp_path_factory):
    return arm_tree(tmp_path / "tree", tmp_path_factory)


def build(tree, **fields):
    module = BridgePixelsDataModule(str(tree), **{"num_workers": 0, "video_size": [32, 48], **fields})
    module.setup()
    return module


def test_batch(tree):
    module = build(tree, micro_batch_size=2, global_batch_size=2, num_workers=1)
    batches = module.train_batches(0, 1, 0)
    batch = next(batches)
    module.close()
    expected = {
        "pixels": ((2, 3, 2, 32, 48), torch.float32),
        "action": ((2, 1, 7), torch.float32),
        "t5_text_embeddings": ((2, 512, 1024), torch.bfloat16),
        "t5_text_mask": ((2, 512), torch.bfloat16),
        "image_size": ((2, 4), torch.int64),
        "fps": ((2,), torch.float32),
        "num_frames": ((2,), torch.int64),
        "padding_mask": ((2, 1, 4, 6), torch.float32),
        "sample_position": ((2,), torch.int64),
    }
    assert {key: (tuple(value.shape), value.dtype) for key, value in batch.items()} == expected
    assert module.sample_shape == [16, 2, 4, 6] and batch["fps"].tolist() == [5.0, 5.0]
    assert batch["image_size"][0].tolist() == [32, 48, 32, 48] and batch["t5_text_embeddings"].abs().max() == 0


@pytest.mark.parametrize("interval, num_frames", [(1, 2), (2, 3)])
def test_samples_are_the_frames_and_the_motion_between_them(tree, interval, num_frames):
    module = build(tree, shuffle=False, sequence_interval=interval, num_frames=num_frames)
    starts_per_episode = 6 - (num_frames - 1) * interval
    assert module.num_train_samples == 4 * starts_per_episode
    (sample,) = islice(module.train_batches(0, 1, 0), starts_per_episode, starts_per_episode + 1)
    episode = read_episodes(tree, "train")[0][1]
    frames = list(range(0, num_frames * interval, interval))
    expected = frames_to_tensor(resize_frames(read_video(episode.video(0))[frames], 32, 48))
    assert torch.equal(sample["pixels"], expected)
    actions = actions_between(episode, frames, "scaled")
    assert sample["action"][0].numpy() == pytest.approx(actions, abs=1e-6)


def test_conventions_are_explicit(tree):
    scaled, recorded = (build(tree, shuffle=False, action_convention=name) for name in ("scaled", "json"))
    first = [next(module.train_batches(0, 1, 0))["action"][0, 0] for module in (scaled, recorded)]
    assert first[0][:6] == pytest.approx(first[1][:6] * 20, abs=1e-6)
    assert first[0][6] + first[1][6] == pytest.approx(1)  # closed and open
    assert any('convention "json": the annotation\'s row' in line for line in recorded.describe())


def test_splits_are_those_of_the_tree(tree):
    module = build(tree, val_start_frame_interval=2)
    assert module.num_validation_samples == 2 * 3
    read_twice = [[batch["pixels"] for batch in module.validation_batches(0, 1)] for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*read_twice))
    assert build(tree, validation_split=None).num_validation_samples == 0


def test_resumed_stream_continues_with_exactly_the_next_sample(tree):
    def positions(module, dp_size, consumed, steps):
        per_step = 4 // dp_size
        batches = [islice(module.train_batches(rank, dp_size, consumed), per_step * steps) for rank in range(dp_size)]
        return sorted((int(b["sample_position"]), round(float(b["action"].sum()), 5)) for part in batches for b in part)

    whole = positions(build(tree, global_batch_size=4), 1, 0, 3)
    state = build(tree, global_batch_size=4).state_dict(4)
    again = build(tree, global_batch_size=4)
    again.load_state_dict(state)
    assert positions(again, 2, 4, 2) == whole[4:]
    with pytest.raises(ConfigError, match="fingerprint"):
        build(tree, num_frames=3).load_state_dict(state)


def test_cameras_are_drawn_by_position(tree):
    for name in "0123":
        video = {"video_path": f"videos/train/{name}/rgb.mp4"}
        shutil.copy(tree / video["video_path"], tree / f"videos/train/{name}/other.mp4")
        change(tree, name, videos=[video, {"video_path": f"videos/train/{name}/other.mp4"}])
    module = build(tree, cam_ids=[0, 1], validation_split=None)
    drawn = [module._camera(True, position) for position in range(40)]
    assert set(drawn) == {0, 1} and drawn == [module._camera(True, position) for position in range(40)]
    with pytest.raises(DataError, match="camera 2 is asked for, but 2 are listed"):
        build(tree, cam_ids=[2], validation_split=None)


def test_refused_settings(tree):
    with pytest.raises(DataError, match="a window needs 9 frames, the longest episode is . with 6"):
        build(tree, num_frames=9)
    with pytest.raises(ConfigError, match=r"video_size=\[30, 48\].*multiples of 16"):
        build(tree, video_size=[30, 48])
    with pytest.raises(ConfigError, match="at least 2 frames"):
        build(tree, num_frames=1)
    with pytest.raises(ConfigError, match='"json".*must be recomputed'):
        build(tree, action_convention="json", sequence_interval=2)


def test_recorded_actions_have_no_poses_to_compute_from(tree):
    path = tree / "annotation/train/0.json"
    path.write_text(json.dumps({**read(tree, "0"), "action_kind": "recorded"}))
    build(tree, action_convention="json", validation_split=None)
    with pytest.raises(DataError, match="0.json: its actions are recorded numbers"):
        build(tree, validation_split=None)


def test_a_cut_video_is_named_with_both_counts(tree):
    path = tree / "videos/train/0/rgb.mp4"
    write_video(path, read_video(path)[:4], 5)
    with pytest.raises(DataError, match="episode 0: .*rgb.mp4 has 4 frames but .*0.json lists 6 states"):
        next(build(tree, shuffle=False).train_batches(0, 1, 0))
    module = build(tree, shuffle=False, max_bad_samples=5)
    assert len(list(islice(module.train_batches(0, 1, 0), 1))) == 1 and module.num_bad_samples == 5
