# SPDX-License-Identifier: Apache-2.0
"""One rank of test runs with low-rank adapters; the plan is that of :mod:`tests.distributed.worker`.

A job also names its ``family``, and with ``lora`` the settings of its adapters.
"""

from functools import partial

from cosmos1.training.lora import LoRA
from tests.distributed import gpt_worker, worker

RECIPES = {"dit": worker.recipe, "gpt": partial(gpt_worker.recipe, video2world=True)}


def recipe(job: dict) -> dict:
    transform = LoRA(**job["lora"]) if "lora" in job else None
    return RECIPES[job["family"]]() | {"model_transform": transform}


def run(job: dict) -> dict:
    return worker.run(job, partial(recipe, job))


if __name__ == "__main__":
    worker.main(run)
