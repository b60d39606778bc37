# SPDX-License-Identifier: Apache-2.0
"""Generated latents for training runs of several processes."""

import json

import pytest
import torch


@pytest.fixture(scope="session")
def latents(tmp_path_factory):
    """Twenty samples of five videos: smooth latents (16, 2, 8, 8) that go with their text."""
    folder = tmp_path_factory.mktemp("latents")
    generator = torch.Generator().manual_seed(0)
    for index in range(20):
        coarse = torch.randn(1, 16, 2, 2, 2, generator=generator)
        latent = torch.nn.functional.interpolate(coarse, size=(2, 8, 8), mode="trilinear")[0]
        text = torch.zeros(512, 1024)
        text[:4] = torch.randn(4, 1024, generator=generator) + coarse.mean()
        torch.save(latent.bfloat16(), folder / f"{index}.video_latent.pth")
        torch.save(text.bfloat16(), folder / f"{index}.t5_text_embeddings.pth")
        torch.save(torch.ones(512, dtype=torch.bfloat16), folder / f"{index}.t5_text_mask.pth")
        facts = {"fps": 24.0, "num_frames": 9, "video_path": f"{index // 4}.mp4", "start_frame": 0}
        (folder / f"{index}.info.json").write_text(json.dumps(facts))
    return folder
