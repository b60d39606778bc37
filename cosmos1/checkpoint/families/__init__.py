# SPDX-License-Identifier: Apache-2.0
"""The families of networks whose weights are converted. A new one is an entry here and its table of names."""

from cosmos1.checkpoint.families.autoregressive import AUTOREGRESSIVE
from cosmos1.checkpoint.families.diffusion import DIFFUSION

ALL = (DIFFUSION, AUTOREGRESSIVE)
