# SPDX-License-Identifier: Apache-2.0
"""Is the control obeyed? Held-out samples under their own control signal and under that of another sample.

Both families, every control: text, action, camera, views, trajectory. The two differ in the control alone; given frames and
noise are the same. Printed are the means under both, and the gap:

* the loss of training. It needs one forward pass and shows obedience long before videos do;
* with --num_generated, the PSNR (and latent L2) of generated videos against the real one. Beside it stands the PSNR of the last
  given frame, repeated: what a video must exceed to show more than a standstill. It is the same under both controls.

Without --data_path the samples are those that the run itself held out.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List

from cosmos1.errors import ConfigError, DataError
from cosmos1.evaluation.control_gap import ControlScore, Scores, compare_controls, report_controls

if TYPE_CHECKING:
    import torch

    from cosmos1.evaluation.controlled_samples import ControlledSamples

    Sample = Dict[str, torch.Tensor]

SCORES = (
    ControlScore("loss", "loss", "", False),
    ControlScore("psnr", "PSNR of generated frames", "dB", True),
    ControlScore("psnr_repeat", "PSNR of the last given frame, repeated", "dB", True),
    ControlScore("latent_l2", "latent L2 of generated frames", "", False),
)
CONTROLS = {
    "text": ("t5_text_embeddings",),
    "action": ("action",),
    "camera": ("plucker_embeddings", "plucker_tokens"),
    "views": ("view_indices",),
    "trajectory": ("trajectory",),
}
OWN, OTHER = "own control", "other control"


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add `control_following` to `python -m cosmos1.evaluation`."""
    p = commands.add_parser(
        "control_following",
        help="any control: the right one against another",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "--checkpoint", type=Path, required=True, help="a run or a checkpoint, any format of docs/weights.md"
    )
    p.add_argument("--ema", type=int, help="use this EMA copy of the checkpoint")
    p.add_argument("--control", choices=CONTROLS, required=True, help="the signal that is exchanged")
    p.add_argument(
        "--data_path",
        type=Path,
        help="folder of prepared samples, not trained on; of data with a part val of its own (token clips, shards, Bridge) "
        "that part alone is used",
    )
    p.add_argument("--num_samples", type=int, default=32, help="use the first ones")
    p.add_argument("--num_noises", type=int, default=16, help="diffusion: noise levels per sample, spread evenly")
    p.add_argument(
        "--num_given_latent_frames", type=int, default=1, help="of each view; a Text2World network is given none"
    )
    p.add_argument("--num_generated", type=int, default=0, help="also generate videos for so many samples")
    p.add_argument("--num_steps", type=int, default=35, help="diffusion: denoising steps")
    p.add_argument("--guidance", type=float, default=7.0, help="diffusion: guidance of generated videos")
    p.add_argument("--temperature", type=float, default=0.0, help="autoregressive: 0 takes the most probable token")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--tp_size", type=int, default=1, help="GPUs that share each layer; times --cp_size, all processes")
    p.add_argument("--cp_size", type=int, default=1, help="diffusion: GPUs that share the tokens")
    p.add_argument("--contact_sheet", type=Path, help="picture of the first generated video: real, own, other control")
    p.add_argument("--output", type=Path, help="write the results to this .json")
    p.set_defaults(function=run)


def run(options: argparse.Namespace) -> Dict[str, Any]:
    """Measure all samples, print and write the result."""
    from cosmos1.evaluation.controlled_samples import build_samples
    from cosmos1.parallel import process_groups

    if options.contact_sheet and not options.num_generated:
        raise ConfigError("--contact_sheet shows a generated video; give --num_generated as well")
    family = build_samples(options)
    samples = family.read()
    others = [exchanged(samples, index, options.control) for index in range(len(samples))]
    entries, rows = [], {}
    with family.model.evaluating():
        for index, (sample, other) in enumerate(zip(samples, others)):
            true = _score(family, index, sample, OWN, rows)
            shuffled = _score(family, index, other, OTHER, rows)
            entries.append({"name": str(index), "true": true, "shuffled": [shuffled]})
    preferred = sum(e["true"]["loss"] < e["shuffled"][0]["loss"] for e in entries) / len(entries)
    measured = [score for score in SCORES if any(e["true"].get(score.name) is not None for e in entries)]
    results = compare_controls(measured, entries, control=options.control, own_preferred=preferred)
    if process_groups.is_main_rank():
        _report(results, rows, options)
    process_groups.shutdown()
    return results


def _score(family: "ControlledSamples", index: int, sample: "Sample", label: str, rows: Dict[str, Any]) -> Scores:
    """Scores of a sample under the control that it carries; the frames of the first one go into ``rows``."""
    from cosmos1.evaluation.metrics import psnr

    scores = {"loss": family.loss(index, sample)}
    if index >= family.options.num_generated:
        return scores
    generated, real, scores["latent_l2"] = family.generate(index, sample)
    if index == 0:
        rows |= {"real": real, label: generated}
    first = family.num_given_frames
    scores["psnr"] = psnr(generated[first:], real[first:]).value
    if first:
        still = real[first - 1 : first].repeat(len(real) - first, axis=0)
        scores["psnr_repeat"] = psnr(still, real[first:]).value
    return scores


def exchanged(samples: "List[Sample]", index: int, control: str) -> "Sample":
    """Sample `index` with the control of the next one that has another; views take the place of their neighbours.

    Raises DataError when the samples have no such signal, all the same, or a single view.
    """
    sample = samples[index]
    names = [name for name in CONTROLS[control] if name in sample]
    if not names:
        raise DataError(
            f"--control {control}: the samples have none of {', '.join(CONTROLS[control])}, but {', '.join(sorted(sample))}; "
            "name a control of this task, or give a run of another one"
        )
    if control == "views":
        if sample[names[0]].shape[1] < 2:
            raise DataError("--control views: the samples have one view; at least two are needed to exchange them.")
        return sample | {name: sample[name].roll(1, dims=1) for name in names}
    for other in samples[index + 1 :] + samples[:index]:
        if not other[names[0]].equal(sample[names[0]]):
            return sample | {name: other[name] for name in names}
    raise DataError(f"all {len(samples)} samples have the same {control}; at least two are needed to exchange them.")


def _report(results: Dict[str, Any], rows: Dict[str, Any], options: argparse.Namespace) -> None:
    from cosmos1.evaluation.contact_sheet import write_contact_sheet

    report_controls(results, options.output)
    print(f"the loss is lower under the own control in {results['own_preferred']:.0%} of the samples (50% is chance)")
    if options.contact_sheet:
        write_contact_sheet(options.contact_sheet, rows)
        print(options.contact_sheet)
