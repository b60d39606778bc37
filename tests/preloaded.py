# SPDX-License-Identifier: Apache-2.0
"""What :mod:`tests.processes` imports before it forks."""

import torch.distributed.checkpoint  # noqa: F401
import torch.distributed.fsdp  # noqa: F401
import torch.utils.tensorboard  # noqa: F401

import cosmos1.data.modules.latent_folder  # noqa: F401
import cosmos1.models.diffusion.model  # noqa: F401
from cosmos1.parallel import megatron

megatron.prepare()

import cosmos1.generation.generator  # noqa: E402, F401  (its imports of Megatron-core come after the preparation)
import cosmos1.training.loop  # noqa: E402, F401
