# SPDX-License-Identifier: Apache-2.0
"""One rank of test runs with low-rank adapters; the plan is that of :mod:`tests.distributed.worker`.

A job also names its ``family``, with ``lora`` the settings of its adapters, and with ``unmark`` adapter weights whose
gradients are to come out wrong.
"""

from dataclasses import dataclass
from functools import partial

from cosmos1.training.lora import LoRA
from tests.distributed import gpt_worker, worker


@dataclass
class UnmarkedModel(worker.ProbedModel):
    """Forgets the ``sequence_parallel`` mark of parameters with ``unmark`` in their names."""

    def forward(self, network, sample):
        for name, parameter in network.named_parameters():
            if self.unmark in name:
                parameter.sequence_parallel = False
        return super().forward(network, sample)


RECIPES = {"dit": worker.recipe, "gpt": partial(gpt_worker.recipe, video2world=True)}


def recipe(job: dict) -> dict:
    transform = LoRA(**job["lora"]) if "lora" in job else None
    arguments = RECIPES[job["family"]]() | {"model_transform": transform}
    if "unmark" in job:
        model = arguments["model"]
        arguments["model"] = UnmarkedModel(model.config, model.objective, tokenizer="dct", unmark=job["unmark"])
    return arguments


def run(job: dict) -> dict:
    return worker.run(job, partial(recipe, job))


if __name__ == "__main__":
    worker.main(run)
