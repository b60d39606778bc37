# SPDX-License-Identifier: Apache-2.0
"""Instruction control: does what happens depend on what the text says?

Every sample of a folder of cached latents (one that was not trained on) is denoised from its first frames under its own
text and under that of another sample, with the same noise:

* the loss, averaged over noise levels. It needs one forward pass and shows obedience long before videos do;
* with --num_generated, the PSNR of generated videos against the real one.
"""

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List

from cosmos1.errors import ConfigError, DataError
from cosmos1.evaluation.control_gap import ControlScore, Scores, compare_controls, report_controls

if TYPE_CHECKING:
    import numpy as np
    import torch

    from cosmos1.generation.generator import VideoGenerator

SCORES = (
    ControlScore("loss", "loss", "", False),
    ControlScore("psnr", "PSNR of generated frames", "dB", True),
    ControlScore("latent_l2", "latent L2 of generated frames", "", False),
)
RIGHT, WRONG = "right text", "wrong text"
GIVEN_SIGMA_LOG = -6.9
"""The given frames are shown with noise of 0.001, as generation shows them."""


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add `instruction_following` to `python -m cosmos1.evaluation`."""
    p = commands.add_parser(
        "instruction_following",
        help="instruction control: right text against wrong text",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "--checkpoint", type=Path, required=True, help="a Video2World network, any format of docs/weights.md"
    )
    p.add_argument("--ema", type=int, help="use this EMA copy of the checkpoint")
    p.add_argument("--data_path", type=Path, required=True, help="folder of cached latents, not trained on")
    p.add_argument("--num_samples", type=int, default=32, help="use the first ones of the folder")
    p.add_argument("--num_noises", type=int, default=16, help="noise levels per sample, spread evenly")
    p.add_argument("--num_given_latent_frames", type=int, default=1)
    p.add_argument("--num_generated", type=int, default=0, help="also generate videos for so many samples")
    p.add_argument("--num_steps", type=int, default=35)
    p.add_argument("--guidance", type=float, default=7.0)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--tp_size", type=int, default=1, help="GPUs that share each layer")
    p.add_argument("--cp_size", type=int, default=1, help="GPUs that share the tokens")
    p.add_argument("--contact_sheet", type=Path, help="picture of the first generated video: real, right, wrong text")
    p.add_argument("--output", type=Path, help="write the results to this .json")
    p.set_defaults(function=run)


def run(options: argparse.Namespace) -> Dict[str, Any]:
    """Measure all samples, print and write the result."""
    from cosmos1.parallel import process_groups

    if options.contact_sheet and not options.num_generated:
        raise ConfigError("--contact_sheet shows a generated video; give --num_generated as well")
    samples = read_samples(options.data_path, options.num_samples)
    generator = _generator(options)
    evaluation = _Evaluation(generator, options)
    entries = []
    for index, sample in enumerate(samples):
        wrong = sample | {"t5_text_embeddings": other_text(samples, index)}
        true, shuffled = (evaluation.score(index, each, label) for each, label in ((sample, RIGHT), (wrong, WRONG)))
        entries.append({"name": str(index), "true": true, "shuffled": [shuffled]})
    preferred = sum(e["true"]["loss"] < e["shuffled"][0]["loss"] for e in entries) / len(entries)
    scores = SCORES if options.num_generated else [score for score in SCORES if score.name == "loss"]
    results = compare_controls(scores, entries, right_text_preferred=preferred)
    if process_groups.is_main_rank():
        report_controls(results, options.output)
        print(f"the loss is lower under the right text in {preferred:.0%} of the samples (50% is chance)")
        if options.contact_sheet:
            evaluation.write_contact_sheet(options.contact_sheet)
    process_groups.shutdown()
    return results


def read_samples(folder: Path, count: int) -> "List[Dict[str, torch.Tensor]]":
    """The first `count` samples of a folder of cached latents, each a batch of one. Raises what the data module raises."""
    from cosmos1.data.modules.latent_folder import LatentFolderDataModule
    from cosmos1.training.sampling import held_out_samples

    data = LatentFolderDataModule(path=str(folder), validation_path=str(folder), num_workers=0)
    data.setup()
    return list(held_out_samples(data, count))


def other_text(samples: "List[Dict[str, torch.Tensor]]", index: int) -> "torch.Tensor":
    """The text of the next sample that says something else. Raises DataError when all say the same."""
    own = samples[index]["t5_text_embeddings"]
    for sample in samples[index + 1 :] + samples[:index]:
        if not sample["t5_text_embeddings"].equal(own):
            return sample["t5_text_embeddings"]
    raise DataError(f"all {len(samples)} samples have the same text; at least two texts are needed to exchange them.")


def _generator(options: argparse.Namespace) -> "VideoGenerator":
    """The network, with noise and given frames as this metric wants them."""
    from cosmos1.generation.generator import VideoGenerator, network_of_checkpoint
    from cosmos1.models.diffusion.objective_config import VideoConditioning
    from cosmos1.parallel.strategy import MegatronStrategy

    task = network_of_checkpoint(options.checkpoint.expanduser())
    if not task.config.condition_mask:
        raise ConfigError(f"--checkpoint {options.checkpoint} is a Text2World network; give a Video2World one")
    count = options.num_given_latent_frames
    task.objective.conditioning = VideoConditioning(count, count, GIVEN_SIGMA_LOG, augment_sigma_std=0.0)
    strategy = MegatronStrategy(tensor_model_parallel_size=options.tp_size, context_parallel_size=options.cp_size)
    return VideoGenerator(task, strategy, options.checkpoint, options.ema)


@dataclass
class _Evaluation:
    """Scores of samples; the frames of the first generated ones are kept for the contact sheet."""

    generator: "VideoGenerator"
    options: argparse.Namespace
    rows: "Dict[str, np.ndarray]" = field(default_factory=dict)

    def score(self, index: int, sample: "Dict[str, torch.Tensor]", label: str) -> Scores:
        """Scores of sample `index` under the text that it carries."""
        with self.generator.model.evaluating():
            scores = {"loss": self._loss(index, sample)}
            if index < self.options.num_generated:
                scores |= self._generated(index, sample, label)
        return scores

    def write_contact_sheet(self, path: Path) -> None:
        from cosmos1.evaluation.contact_sheet import write_contact_sheet

        write_contact_sheet(path, self.rows)
        print(path)

    def _loss(self, index: int, sample: "Dict[str, torch.Tensor]") -> float:
        """The training loss, averaged over noise levels and noises that depend on `index` alone."""
        import torch

        from cosmos1.models.diffusion.objective import edm_loss
        from cosmos1.parallel.device import device
        from cosmos1.training.schedule_runner import predict

        total, count = 0.0, self.options.num_noises
        for draw in range(count):
            placed = sample | {"sample_position": torch.tensor([index * count + draw])}
            noisy = self.generator.task.prepare(placed, self.options.seed, device(), training=False)
            total += edm_loss(noisy, predict(self.generator.model, noisy)).item()
        return total / count

    def _generated(self, index: int, sample: "Dict[str, torch.Tensor]", label: str) -> Dict[str, float]:
        """Scores of a generated video against the sample's own latents, as both are decoded."""
        from cosmos1.data.video import tensor_to_frames
        from cosmos1.evaluation.metrics import latent_distance, psnr
        from cosmos1.models.diffusion.generation import GenerationSettings
        from cosmos1.models.tokenizers.video import build_video_tokenizer
        from cosmos1.parallel.device import device
        from cosmos1.training.sampling import generate_held_out

        options, task = self.options, self.generator.task
        settings = GenerationSettings(options.num_steps, options.guidance, seed=options.seed + index)
        given = options.num_given_latent_frames
        latent = generate_held_out(self.generator, sample, settings, given)
        real = sample["video"].to(latent)
        num_frames = (latent.shape[2] - 1) * task.config.temporal_factor + 1
        tokenizer = build_video_tokenizer(task.tokenizer, task.tokenizer_path, num_frames, device())
        frames = [tensor_to_frames(tokenizer.decode(each)) for each in (latent, real)]
        first = (given - 1) * task.config.temporal_factor + 1
        if index == 0:
            self.rows |= {"real": frames[1], label: frames[0]}
        score = psnr(*(video[first:] for video in frames)).value
        return {"psnr": score, "latent_l2": latent_distance(latent[:, :, given:], real[:, :, given:])}
