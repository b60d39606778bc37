# SPDX-License-Identifier: Apache-2.0
"""Folders of tokens with control signals: the order of the tokens, the rays of each, and each bad input."""

import json

import numpy as np
import pytest
import torch

from cosmos1.data.formats.camera_sample import pack_cameras
from cosmos1.data.geometry.cameras import CameraPath, named_path, plucker_embeddings
from cosmos1.data.modules.token_folder import CameraTokensDataModule, MultiviewTokensDataModule, rays_of_tokens
from cosmos1.errors import DataError

VIEWS = ["front", "left"]
T, H, W, NUM_FRAMES = 2, 2, 3, 9


def write_sample(folder, index: int, num_views: int = 1, **changes) -> None:
    """Tokens count upwards from 1000 * index, view after view."""
    tokens = 1000 * index + torch.arange(num_views * T * H * W, dtype=torch.int32).view(-1, H, W)
    parts = {"video_tokens": tokens, "t5_text_embeddings": torch.ones(512, 1024), "t5_text_mask": torch.ones(512)}
    info = {"fps": 10, "num_frames": NUM_FRAMES, "video_path": str(index), "views": VIEWS}
    # Wider pictures would be cropped; narrower ones are padded at the sides.
    info |= {"height": 32, "width": 32, "target_height": 32, "target_width": 48}
    if num_views == 1:
        parts["cameras"] = pack_cameras(cameras())
    else:
        parts["trajectory"] = torch.linspace(-1, 1, 192)
    for part, tensor in (parts | {key: value for key, value in changes.items() if key in parts}).items():
        torch.save(tensor, folder / f"{index}.{part}.pth")
    info |= {key: value for key, value in changes.items() if key in info}
    (folder / f"{index}.info.json").write_text(json.dumps(info))


def cameras() -> CameraPath:
    return CameraPath(named_path("orbit", NUM_FRAMES), np.tile([40.0, 40, 24, 16], (NUM_FRAMES, 1)), 32, 48)


def opened(module, folder, **options):
    data = module(path=str(folder), num_workers=0, shuffle=False, validation_fraction=0.3, **options)
    data.setup()
    return data


def test_rays_of_tokens_are_those_of_their_frames():
    rays = np.random.RandomState(0).rand(NUM_FRAMES, 6, H, W).astype(np.float32)
    found = rays_of_tokens(rays, 8).reshape(T, H, W, 8, 6)
    for frame in range(8):
        assert np.array_equal(found[0, :, :, frame], rays[0].transpose(1, 2, 0))
        assert np.array_equal(found[1, :, :, frame], rays[1 + frame].transpose(1, 2, 0))


def test_cameras(tmp_path):
    for index in range(3):
        write_sample(tmp_path, index)
    (tmp_path / "dataset.json").write_text(json.dumps({"tokenizer": "dct_fsq", "compression": [8, 16, 16]}))
    data = opened(CameraTokensDataModule, tmp_path)
    assert (data.sample_shape, data.compression, data.tokenizer) == ([T, H, W], [8, 16, 16], "dct_fsq")
    batch = next(data.train_batches(0, 1, 0))
    assert batch["tokens"][0, :14].tolist() == [64000, *(int(batch["tokens"][0, 1]) + k for k in range(12)), 64002]
    assert batch["tokens"].shape == (1, 64) and batch["loss_mask"].sum() == 12
    assert batch["plucker_tokens"].shape == (1, 12, 48)
    expected = torch.from_numpy(rays_of_tokens(plucker_embeddings(cameras(), H, W), 8))
    by_column = batch["plucker_tokens"].view(T, H, W, 48)
    # The picture covers columns 8 to 40 of 48: the cell at 0 is padded.
    assert not by_column[:, :, 0].any() and torch.equal(by_column[:, :, 1:], expected.view(T, H, W, 48)[:, :, 1:])


def test_views_are_ordered_by_time_first(tmp_path):
    for index in range(3):
        write_sample(tmp_path, index, num_views=2)
    data = opened(MultiviewTokensDataModule, tmp_path, with_trajectory=True)
    assert data.sample_shape == [T, 2, H, W]
    batch = next(data.train_batches(0, 1, 0))
    first = int(batch["tokens"][0, 1])
    by_time = [first + view * 12 + time * 6 + place for time in (0, 1) for view in (0, 1) for place in range(6)]
    assert batch["tokens"][0, 1:25].tolist() == by_time
    assert batch["view_indices"].tolist() == [[0, 1]] and batch["trajectory"].shape == (1, 192)
    turned = opened(MultiviewTokensDataModule, tmp_path, cameras=["left", "rear", "front"])
    batch = next(turned.train_batches(0, 1, 0))
    assert batch["view_indices"].tolist() == [[2, 0]] and "trajectory" not in batch


@pytest.mark.parametrize(
    "module, changes, message",
    [
        (CameraTokensDataModule, {"video_tokens": torch.zeros(T, H, W)}, r"float32.*integers \(t, h, w\) are needed"),
        (CameraTokensDataModule, {"video_tokens": torch.full((T, H, W), 64000)}, "12 of 12 token ids are outside"),
        (CameraTokensDataModule, {"num_frames": 17}, "17 pixel frames, 2 frames of tokens need 9"),
        (CameraTokensDataModule, {"cameras": torch.zeros(8, 16)}, r"cameras has shape \(8, 16\)"),
        (MultiviewTokensDataModule, {"views": ["front", "left", "rear"]}, "4 frames of tokens and 3 views"),
        (MultiviewTokensDataModule, {"trajectory": torch.zeros(64)}, r"\(192,\) finite numbers"),
    ],
)
def test_samples_that_are_refused(tmp_path, module, changes, message):
    options = {} if module is CameraTokensDataModule else {"with_trajectory": True}
    write_sample(tmp_path, 0, num_views=1 if not options else 2, **changes)
    with pytest.raises(DataError, match=message):
        opened(module, tmp_path, **options)


def test_another_sample_must_have_the_grid_and_the_views_of_the_first(tmp_path):
    write_sample(tmp_path, 0, num_views=2)
    write_sample(tmp_path, 1, num_views=2, views=["front", "rear"])
    data = MultiviewTokensDataModule(path=str(tmp_path), num_workers=0, shuffle=False, validation_fraction=0.0)
    data.setup()
    with pytest.raises(DataError, match="has the views front, rear; needed are 2 of front, left"):
        for position in range(2):
            data._load_sample(True, position, position)
    write_sample(tmp_path, 1, num_views=2, video_tokens=torch.zeros(T, H, W, dtype=torch.int32))
    with pytest.raises(DataError, match=r"\(4, 2, 3\) as in the first sample"):
        data._load_sample(True, 1, 1)


def test_a_folder_of_latents_is_no_folder_of_tokens(tmp_path):
    (tmp_path / "0.video_latent.pth").touch()
    with pytest.raises(DataError, match="no sample found.*video_tokens.pth"):
        opened(CameraTokensDataModule, tmp_path)
