# SPDX-License-Identifier: Apache-2.0
"""What the data modules of networks without control signals share: clips of one token grid."""

from dataclasses import dataclass
from typing import List, Optional

from cosmos1.data.batches.ordered import OrderedDataModule


@dataclass
class ClipTokensDataModule(OrderedDataModule):
    """Feeds clips of S video tokens each.

    `setup` of a subclass notes what dataset.json says (`_facts`, a TokenFacts) and S (`_num_tokens`).
    """

    @property
    def sample_shape(self) -> List[int]:
        """Token grid [t, h, w], or [S] when dataset.json does not state it; known after `setup`."""
        return self._facts.latent_shape or [self._num_tokens]

    @property
    def tokenizer(self) -> Optional[str]:
        """Name of the video tokenizer that made the tokens, None where dataset.json does not say."""
        return self._facts.tokenizer

    @property
    def compression(self) -> Optional[List[int]]:
        """Pixel frames, rows and columns per token, None where dataset.json does not say."""
        return self._facts.compression
