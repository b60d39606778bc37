# SPDX-License-Identifier: Apache-2.0
"""What the data modules of networks without control signals share: clips of one token grid."""

from dataclasses import dataclass

from cosmos1.data.batches.ordered import OrderedDataModule
from cosmos1.data.formats.token_facts import TokenFacts, check_num_tokens


@dataclass
class ClipTokensDataModule(OrderedDataModule):
    """Feeds clips of S video tokens each.

    `sample_shape` is [S] where dataset.json does not state the grid; `compression` are the pixel frames, rows and columns
    per token, None where it does not say.
    """

    def _note_facts(self, facts: TokenFacts, num_tokens: int, first: str) -> None:
        """Note what dataset.json says of clips of S tokens. Raises DataError unless S fits `first`, the first clip."""
        check_num_tokens(facts, num_tokens, first)
        self._facts, self._num_tokens = facts, num_tokens
        self.sample_shape, self.tokenizer = facts.latent_shape or [num_tokens], facts.tokenizer
        self.compression = facts.compression
