# SPDX-License-Identifier: Apache-2.0
"""Names that every recipe takes for ``model_transform=``."""

import nemo_run as run

from cosmos1.training.lora import LoRA


@run.cli.factory
def lora() -> run.Config[LoRA]:
    """Low-rank adapters on a frozen network: ``model_transform=lora model_transform.rank=32``."""
    return run.Config(LoRA)
