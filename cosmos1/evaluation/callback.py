# SPDX-License-Identifier: Apache-2.0
"""Scores of generated held-out samples during training."""

from dataclasses import dataclass

from cosmos1.errors import ConfigError


@dataclass
class EvaluateSamples:
    """Generates held-out samples every n validations and logs val_psnr, val_ssim and val_latent_l2, means over them.

    A sample is generated from its text with the same noise every time, and compared with its own latent (latent_l2)
    and with that latent's decoded frames (psnr, ssim), so that the tokenizer's own loss does not count. A Video2World
    network gets the first ``num_given_latent_frames`` of the held-out latent; the scores are taken over all frames.
    """

    num_samples: int = 2
    every_n_validations: int = 1
    num_steps: int = 12
    guidance: float = 3.0
    seed: int = 0
    num_given_latent_frames: int = 1

    def __post_init__(self):
        self._num_validations = 0

    def on_train_start(self, run) -> None:
        """Load the tokenizer of the run's data; without it the run goes on without scores, and says so.

        Raises ConfigError for settings that cannot work."""
        from cosmos1.training.sampling import LatentDecoder

        if self.num_samples < 1 or self.every_n_validations < 1:
            raise ConfigError(
                f"EvaluateSamples: num_samples={self.num_samples}, every_n_validations={self.every_n_validations}; both "
                f"must be 1 or more (leave the callback out to score nothing)"
            )
        if not 0 <= self.num_given_latent_frames < run.data.sample_shape[1]:
            raise ConfigError(
                f"EvaluateSamples: num_given_latent_frames={self.num_given_latent_frames}; samples have "
                f"{run.data.sample_shape[1]} latent frames, so it must be 0 to {run.data.sample_shape[1] - 1}"
            )
        self._decoder = LatentDecoder(run, "scores of generated samples")

    def on_validation_end(self, run, values) -> None:
        from cosmos1.conditioning.controls import num_views
        from cosmos1.models.diffusion.generation import GenerationSettings
        from cosmos1.parallel.device import device
        from cosmos1.training.sampling import generate_held_out, held_out_samples

        self._num_validations += 1
        if not self._decoder.available or self._num_validations % self.every_n_validations:
            return
        scores = []
        with run.model.evaluating():
            for index, sample in enumerate(held_out_samples(run.data, self.num_samples)):
                sample = run.task.with_latents(sample, device())
                settings = GenerationSettings(self.num_steps, self.guidance, seed=self.seed + index)
                generated = generate_held_out(run, sample, settings, self.num_given_latent_frames)
                if run.metrics.is_main:
                    scores += self._compare(generated, sample["video"].to(generated), num_views(sample))
        if scores:
            means = {name: sum(score[name] for score in scores) / len(scores) for name in scores[0]}
            run.metrics.log(run.progress.step, means)

    def _compare(self, generated, reference, num_views: int = 1) -> "list[dict[str, float]]":
        """Scores of one generated latent [1, C, T, H, W] against the held-out one; none when it cannot be decoded."""
        from cosmos1.evaluation.metrics import latent_distance, psnr, ssim

        frames = [self._decoder.decode(latent, num_views) for latent in (generated, reference)]
        if any(video is None for video in frames):
            return []
        scores = {"val_psnr": psnr(*frames).value, "val_ssim": ssim(*frames).value}
        return [scores | {"val_latent_l2": latent_distance(generated, reference)}]
