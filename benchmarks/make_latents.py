# SPDX-License-Identifier: Apache-2.0
"""Write a folder of random latents in the format of ``data_prep/prepare_dataset.py``, for timing without videos.

python benchmarks/make_latents.py /tmp/latents --latent_shape 16 16 88 160 --num_samples 16
"""

import argparse
import json
from pathlib import Path

import torch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_path", type=Path)
    parser.add_argument("--latent_shape", type=int, nargs=4, default=[16, 16, 88, 160])
    parser.add_argument("--num_samples", type=int, default=16)
    options = parser.parse_args()
    options.output_path.mkdir(parents=True, exist_ok=True)
    frames, height, width = (options.latent_shape[1] - 1) * 8 + 1, *(8 * n for n in options.latent_shape[2:])
    for index in range(options.num_samples):
        generator = torch.Generator().manual_seed(index)
        latent = torch.randn(options.latent_shape, generator=generator)
        text = torch.zeros(512, 1024)
        text[:20] = 0.13 * torch.randn(20, 1024, generator=generator)
        tensors = {"video_latent": latent, "t5_text_embeddings": text, "t5_text_mask": torch.ones(512)}
        for name, tensor in tensors.items():
            torch.save(tensor.bfloat16(), options.output_path / f"{index}.{name}.pth")
        info = {"height": height, "width": width, "target_height": height, "target_width": width, "fps": 24.0}
        info |= {"num_frames": frames, "video_path": f"{index}.mp4", "start_frame": 0}
        (options.output_path / f"{index}.info.json").write_text(json.dumps(info))


if __name__ == "__main__":
    main()
