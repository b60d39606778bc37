# SPDX-License-Identifier: Apache-2.0
"""Small folders of cached latents, as data_prep/prepare_dataset.py writes them."""

import json

import pytest
import torch


def write_sample(folder, name, video="a.mp4", shape=(16, 2, 4, 6), rows=512, **info):
    """Write one sample whose latent is filled with the sample's number, so that batches show where they come from."""
    value = float(name) if str(name).isdigit() else 0.0
    torch.save(torch.full(shape, value, dtype=torch.bfloat16), folder / f"{name}.video_latent.pth")
    torch.save(torch.full(shape, value, dtype=torch.bfloat16), folder / f"{name}.conditioning_latent.pth")
    text = torch.zeros(rows, 1024, dtype=torch.bfloat16)
    text[:3] = value + 1
    torch.save(text, folder / f"{name}.t5_text_embeddings.pth")
    torch.save(torch.ones(rows, dtype=torch.bfloat16), folder / f"{name}.t5_text_mask.pth")
    facts = {"height": 480, "width": 640, "fps": 29.97, "num_frames": 9, "video_path": video, "start_frame": 0}
    facts |= {"target_height": 32, "target_width": 48, **info}
    (folder / f"{name}.info.json").write_text(json.dumps(facts))


@pytest.fixture
def latent_folder(tmp_path):
    return make_latent_folder(tmp_path / "cached")


def make_latent_folder(folder):
    """Twelve samples of six videos; latents are (16, 2, 4, 6)."""
    folder.mkdir()
    for index in range(12):
        write_sample(folder, index, video=f"{index // 2}.mp4")
    (folder / "dataset.json").write_text(json.dumps({"num_samples": 12, "tokenizer": "dct", "text_encoder": "hashed"}))
    return folder
