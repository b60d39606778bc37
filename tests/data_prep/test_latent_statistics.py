# SPDX-License-Identifier: Apache-2.0
"""Statistics measured with a stand-in for the tokenizer's files."""

import numpy as np
import pytest
import torch

from cosmos1.data.video import write_video
from cosmos1.models.tokenizers.video import build_video_tokenizer
from tests.processes import run


class Pool(torch.nn.Module):
    def forward(self, video):
        first = torch.nn.functional.avg_pool3d(video[:, :, :1], [1, 8, 8])
        rest = torch.nn.functional.avg_pool3d(video[:, :, 1:], [4, 8, 8])
        weights = torch.arange(1, 17).to(video).reshape(16, 1, 1, 1)
        return torch.cat([first, rest], dim=2)[:, :1] * weights + 3


@pytest.fixture
def tokenizer_dir(tmp_path):
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    for name in ("encoder.jit", "decoder.jit"):
        torch.jit.script(Pool()).save(folder / name)
    return folder


def test_measured_latents_have_mean_zero_and_deviation_one(tmp_path, tokenizer_dir):
    videos = tmp_path / "videos"
    videos.mkdir()
    generator = np.random.RandomState(0)
    for index in range(3):
        small = generator.randint(0, 256, (9, 4, 6, 3), dtype=np.uint8)
        write_video(videos / f"{index}.mp4", small.repeat(8, axis=1).repeat(8, axis=2), fps=8)
    options = f"--tokenizer_dir {tokenizer_dir} --dataset_path {videos} --num_frames 9 --height 32 --width 48".split()
    command = ("data_prep/latent_statistics.py", *options, "--dtype", "float32", "--device", "cpu")
    assert "wrote" in run(*command).stdout
    mean, deviation = torch.load(tokenizer_dir / "mean_std.pt", weights_only=True)
    assert mean.shape == deviation.shape == (16, 3)
    assert torch.equal(mean[:, 1], mean[:, 2])
    ratio = deviation[15] / deviation[0]
    torch.testing.assert_close(ratio, torch.full_like(ratio, 16.0), rtol=1e-3, atol=0)
    from cosmos1.data.video import frames_to_tensor, read_video

    tokenizer = build_video_tokenizer("cosmos_cv4x8x8", str(tokenizer_dir), num_frames=9, dtype=torch.float32)
    clips = [tokenizer.encode(frames_to_tensor(read_video(path))) for path in sorted(videos.iterdir())]
    for values in (torch.cat(clips)[:, :, :1], torch.cat(clips)[:, :, 1:]):
        assert values.mean().abs() < 1e-3 and abs(values.std() - 1) < 1e-2
    again = run(*command, check=False)
    assert again.returncode == 2 and "--overwrite replaces it" in again.stderr
