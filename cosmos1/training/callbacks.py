# SPDX-License-Identifier: Apache-2.0
"""What may happen beside training. A callback is any object with some of ``on_train_start(run)``,
``on_step_end(run, values)``, ``on_validation_end(run, values)`` and ``on_train_end(run)``."""

from dataclasses import dataclass

from cosmos1.errors import UserError


@dataclass
class SampleVideo:
    """Generates the video of a held-out sample's text every n validations, into the run folder and the loggers."""

    every_n_validations: int = 1
    num_steps: int = 12
    guidance: float = 3.0
    seed: int = 0

    def __post_init__(self):
        self._num_validations = 0
        self._tokenizer = None

    def on_train_start(self, run) -> None:
        from cosmos1.models.tokenizers.video import build_video_tokenizer
        from cosmos1.parallel.device import device

        num_frames = (run.data.sample_shape[1] - 1) * 8 + 1
        try:
            self._tokenizer = build_video_tokenizer(run.task.tokenizer, run.task.tokenizer_path, num_frames, device())
        except UserError as error:
            # A run must not end because it cannot draw; it says once why there are no videos.
            run.metrics.message(f"no sample videos: {error}")

    def on_validation_end(self, run, values) -> None:
        from cosmos1.data.video import tensor_to_frames
        from cosmos1.models.diffusion.generation import GenerationSettings, generate_latent
        from cosmos1.parallel.device import device
        from cosmos1.training.schedule_runner import predict

        self._num_validations += 1
        if self._tokenizer is None or self._num_validations % self.every_n_validations:
            return
        # Replica 0 of 1: every rank must draw the same sample.
        batch = next(run.data.validation_batches(0, 1, 1))
        with run.model.evaluating():
            latent = generate_latent(
                lambda sample: predict(run.model, sample),
                run.data.sample_shape,
                batch["t5_text_embeddings"][:1].to(device()).float(),
                None,
                float(batch["fps"][0]),
                GenerationSettings(self.num_steps, self.guidance, seed=self.seed),
                run.task.objective.sigma_data,
                condition_mask=run.task.config.condition_mask,
            )
        frames = tensor_to_frames(self._tokenizer.decode(latent.to(device())))
        run.metrics.log_video(run.progress.step, "sample", frames, float(batch["fps"][0]))
