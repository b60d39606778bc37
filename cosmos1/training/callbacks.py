# SPDX-License-Identifier: Apache-2.0
"""What may happen beside training. A callback is any object with some of ``on_train_start(run)``,
``on_step_end(run, values)``, ``on_validation_end(run, values)`` and ``on_train_end(run)``."""

from dataclasses import dataclass


@dataclass
class SampleVideo:
    """Generates the video of a held-out sample every n validations, into the run folder and the loggers.

    A Video2World network gets the first latent frame of the held-out video.
    """

    every_n_validations: int = 1
    num_steps: int = 12
    guidance: float = 3.0
    seed: int = 0

    def __post_init__(self):
        self._num_validations = 0

    def on_train_start(self, run) -> None:
        from cosmos1.training.sampling import LatentDecoder

        self._decoder = LatentDecoder(run, "sample videos")

    def on_validation_end(self, run, values) -> None:
        from cosmos1.conditioning.controls import num_views
        from cosmos1.models.diffusion.generation import GenerationSettings
        from cosmos1.training.sampling import generate_held_out, held_out_samples

        self._num_validations += 1
        if not self._decoder.available or self._num_validations % self.every_n_validations:
            return
        settings = GenerationSettings(self.num_steps, self.guidance, seed=self.seed)
        with run.model.evaluating():
            for sample in held_out_samples(run.data, 1):
                latent = generate_held_out(run, sample, settings, num_given_latent_frames=1)
                frames = self._decoder.decode(latent, num_views(sample))
                if frames is not None:
                    run.metrics.log_video(run.progress.step, "sample", frames, float(sample["fps"][0]))
