# SPDX-License-Identifier: Apache-2.0
"""Measure the mean and deviation of a tokenizer's latents and write them beside it as mean_std.pt.

    python data_prep/latent_statistics.py --tokenizer cosmos_cv4x8x8 --tokenizer_dir tokenizer --dataset_path videos

The diffusion networks expect latents of about zero mean and unit deviation. The release of CV8x8x8 brings its
statistics; that of CV4x8x8 does not. They are taken per channel, apart for the first latent frame, which stands for one
picture, and for all later ones together. Some hundred clips of your own videos are plenty.
"""

import argparse
import io
from pathlib import Path

from cosmos1.data.command_line import run_command
from cosmos1.data.files import write_bytes
from cosmos1.data.preparing.encoders import add_device_option, choose_device
from cosmos1.data.sources.clip_plan import list_mp4_files
from cosmos1.errors import ConfigError, DataError
from cosmos1.models.tokenizers.video import TEMPORAL_FACTORS, VIDEO_TOKENIZER_NAMES, is_weight_free
from cosmos1.progress import Progress


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    with_weights = [name for name in VIDEO_TOKENIZER_NAMES if not is_weight_free(name)]
    add("--tokenizer", choices=with_weights, default="cosmos_cv4x8x8")
    add(
        "--tokenizer_dir",
        type=Path,
        required=True,
        help="folder of encoder.jit and decoder.jit; mean_std.pt goes there",
    )
    add("--dataset_path", type=Path, required=True, help="folder of mp4 files")
    add("--num_frames", type=int, default=61, help="longest clip that the statistics are for, in pixel frames")
    add("--num_clips", type=int, default=200, help="at most so many videos, one clip of each")
    add("--height", type=int, default=704)
    add("--width", type=int, default=1280)
    add("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    add_device_option(parser)
    add("--overwrite", action="store_true", help="replace a mean_std.pt that is there")
    return parser


def measure(arguments: argparse.Namespace) -> tuple:
    """``(mean, deviation)``, each ``(16, latent frames)`` float32."""
    import torch

    from cosmos1.data.video import frames_to_tensor, read_video, resize_frames
    from cosmos1.models.tokenizers.cosmos_cv import without_statistics

    tokenizer = without_statistics(
        arguments.tokenizer_dir,
        choose_device(arguments.device),
        getattr(torch, arguments.dtype),
        TEMPORAL_FACTORS[arguments.tokenizer],
    )
    sums = {part: torch.zeros(3, tokenizer.latent_channels, dtype=torch.float64) for part in ("first", "later")}
    paths = list_mp4_files(arguments.dataset_path)[: arguments.num_clips]
    progress = Progress(len(paths), "clips")
    for path in paths:
        frames = read_video(path)[: arguments.num_frames]
        frames = frames[: (len(frames) - 1) // tokenizer.temporal_factor * tokenizer.temporal_factor + 1]
        latent = tokenizer.encode(frames_to_tensor(resize_frames(frames, arguments.height, arguments.width)))
        for part, values in (("first", latent[:, :, :1]), ("later", latent[:, :, 1:])):
            channels = values.transpose(0, 1).flatten(1).double().cpu()
            counts = torch.full((len(channels),), channels.shape[1])
            sums[part] += torch.stack([counts, channels.sum(1), channels.square().sum(1)])
        progress.advance()
    if not sums["later"][0].all():
        raise DataError(
            f"{arguments.dataset_path}: all videos are shorter than {tokenizer.temporal_factor + 1} frames."
        )
    moments = {part: (total / count, square / count) for part, (count, total, square) in sums.items()}
    num_later = (arguments.num_frames - 1) // tokenizer.temporal_factor
    order = ["first"] + ["later"] * num_later
    means = torch.stack([moments[part][0] for part in order], dim=1)
    deviations = torch.stack([(moments[part][1] - moments[part][0].square()).sqrt() for part in order], dim=1)
    return means.float(), deviations.float()


def main(arguments: argparse.Namespace) -> None:
    import torch

    target = arguments.tokenizer_dir / "mean_std.pt"
    if target.exists() and not arguments.overwrite:
        raise ConfigError(f"{target} is there already; --overwrite replaces it.")
    mean, deviation = measure(arguments)
    buffer = io.BytesIO()
    torch.save((mean, deviation), buffer)
    write_bytes(target, buffer.getvalue())
    print(f"wrote {target}: deviations {deviation.min():.3f} to {deviation.max():.3f}")


if __name__ == "__main__":
    run_command(build_parser(), main)
