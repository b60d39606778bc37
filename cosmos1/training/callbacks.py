# SPDX-License-Identifier: Apache-2.0
"""What may happen beside training. A callback is any object with some of ``on_train_start(run)``,
``on_step_end(run, values)``, ``on_validation_end(run, values)`` and ``on_train_end(run)``."""

from dataclasses import dataclass


@dataclass
class SampleVideo:
    """Generates the video of a held-out sample's text every n validations, into the run folder and the loggers."""

    every_n_validations: int = 1
    num_steps: int = 12
    guidance: float = 3.0
    seed: int = 0

    def __post_init__(self):
        self._num_validations = 0

    def on_validation_end(self, run, values) -> None:
        self._num_validations += 1
        if self._num_validations % self.every_n_validations:
            return
