# SPDX-License-Identifier: Apache-2.0
"""Measure generated videos against reference videos of the same names.

    python -m cosmos1.evaluation run --generated generated --reference videos --metrics psnr ssim latent_l2 \\
        --output evaluation

writes results.json, report.html (open it in a browser) and contact_sheets/ into the output folder.
"""

import argparse
from pathlib import Path

from cosmos1.data.command_line import run_command
from cosmos1.evaluation import (
    action_following,
    camera_pose,
    control_following,
    trajectory_following,
    view_consistency,
)
from cosmos1.evaluation.registry import METRICS


def build_parser() -> argparse.ArgumentParser:
    """The command line of `python -m cosmos1.evaluation`."""
    keep_lines = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m cosmos1.evaluation", description=__doc__, formatter_class=keep_lines)
    commands = parser.add_subparsers(dest="command", required=True)
    p = commands.add_parser("run", help="compare two folders of mp4s", description=__doc__, formatter_class=keep_lines)
    p.add_argument("--generated", type=Path, required=True, help="folder of generated mp4s")
    p.add_argument("--reference", type=Path, required=True, help="folder of reference mp4s with the same file names")
    p.add_argument("--output", type=Path, required=True, help="folder for the results; older results are replaced")
    p.add_argument(
        "--metrics", nargs="+", default=["psnr", "ssim", "latent_l2"], metavar="NAME", help=f"of: {', '.join(METRICS)}"
    )
    alignment = p.add_argument_group("videos that differ (refused otherwise)")
    alignment.add_argument("--trim", action="store_true", help="compare the first frames of the longer video only")
    alignment.add_argument("--resize", action="store_true", help="stretch generated pictures to the reference's size")
    alignment.add_argument("--num_frames", type=int, help="compare only this many frames from the start")
    networks = p.add_argument_group("networks of the metrics (nothing is downloaded)")
    networks.add_argument("--tokenizer", default="dct", help="for latent_l2: dct (no weights) or cosmos_cv8x8x8")
    networks.add_argument("--tokenizer_dir", help="weight folder of the tokenizer")
    for name in ("lpips", "fid", "fvd"):
        networks.add_argument(f"--{name}_weights", metavar="FILE", help=f"TorchScript network of {METRICS[name].title}")
    p.set_defaults(function=run_metrics)
    for control in (action_following, control_following, camera_pose, view_consistency, trajectory_following):
        control.add_command(commands)
    return parser


def run_metrics(options: argparse.Namespace) -> None:
    from cosmos1.evaluation.evaluate import Evaluation, evaluate
    from cosmos1.evaluation.pairs import Alignment
    from cosmos1.evaluation.registry import MetricSettings
    from cosmos1.evaluation.table import show

    evaluation = Evaluation(
        options.generated,
        options.reference,
        options.output,
        tuple(dict.fromkeys(options.metrics)),
        Alignment(options.trim, options.resize, options.num_frames),
        MetricSettings(
            options.tokenizer, options.tokenizer_dir, options.lpips_weights, options.fvd_weights, options.fid_weights
        ),
    )
    show(evaluate(evaluation, show_progress=True))
    for name in ("results.json", "report.html"):
        print(f"{name:12s} {options.output / name}")


def main(options: argparse.Namespace) -> None:
    options.function(options)


if __name__ == "__main__":
    run_command(build_parser(), main)
