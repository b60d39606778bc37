# SPDX-License-Identifier: Apache-2.0
"""Text encoders: the T5 encoder that the released models were trained with, and a weight-free stand-in."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Protocol

from cosmos1.conditioning.settings import NUM_TEXT_TOKENS, TEXT_WIDTH
from cosmos1.errors import DataError
from cosmos1.models.tokenizers.video import unknown_name_message

if TYPE_CHECKING:
    import numpy as np
    import torch

TEXT_ENCODER_NAMES = ("hashed", "t5")
DEFAULT_T5 = "google-t5/t5-11b"


class TextEncoder(Protocol):
    """Turns prompts into one row per token, padded with zero rows."""

    name: str

    def encode(self, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return embeddings (N, 512, 1024) on the CPU and lengths (N,) int64; rows from the length on are zero."""

    def count_tokens(self, prompt: str) -> int:
        """Tokens of a whole prompt, its end mark included; those after the 512th are cut by `encode`."""


def build_text_encoder(
    name: str,
    path: str | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> TextEncoder:
    """Make the text encoder called `name`. `path` is a local folder or a model name, for "t5" only.

    `dtype` is that of the weights and of the embeddings; None means float32. Raises ConfigError for an unknown name
    and DataError when the weights cannot be had.
    """
    import torch

    from cosmos1.errors import ConfigError

    dtype = dtype or torch.float32
    if name == "hashed":
        return HashedTextEncoder(dtype)
    if name == "t5":
        return T5TextEncoder(path or DEFAULT_T5, device, dtype)
    raise ConfigError(unknown_name_message("text encoder", name, TEXT_ENCODER_NAMES))


class HashedTextEncoder:
    """A fixed random vector per word, equal on every machine: words that share letters get similar rows.

    Row k is the sum of three parts, each a pattern of +1 and -1 drawn from a hash: the word, the mean over its
    three-letter pieces, and the word together with the one before it (so that word order matters). The root mean
    square of a row is about 0.13, like that of the T5 encoder's output. A last row marks the end of the sentence.
    """

    name = "hashed"

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype

    def encode(self, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        embeddings = torch.zeros(len(prompts), NUM_TEXT_TOKENS, TEXT_WIDTH, dtype=self.dtype)
        lengths = torch.zeros(len(prompts), dtype=torch.int64)
        for index, prompt in enumerate(prompts):
            rows = _hashed_rows(prompt)
            embeddings[index, : len(rows)] = torch.from_numpy(rows).to(self.dtype)
            lengths[index] = len(rows)
        return embeddings, lengths

    def count_tokens(self, prompt: str) -> int:
        return len(_words(prompt)) + 1


def _words(prompt: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", prompt.lower())


def _hashed_rows(prompt: str) -> np.ndarray:
    import numpy as np

    words = _words(prompt)[: NUM_TEXT_TOKENS - 1] + ["</s>"]
    rows = np.zeros((len(words), TEXT_WIDTH), np.float32)
    for position, word in enumerate(words):
        padded = f"^{word}$"
        pieces = [padded[start : start + 3] for start in range(max(len(padded) - 2, 1))]
        mean_of_pieces = sum(_signs(f"piece {piece}") for piece in pieces) / np.sqrt(len(pieces))
        previous = words[position - 1] if position else "<s>"
        rows[position] = 0.1 * _signs(f"word {word}") + 0.06 * mean_of_pieces + 0.06 * _signs(f"pair {previous} {word}")
    return rows


def _signs(key: str) -> np.ndarray:
    """Return 1024 values of +1 or -1 that depend on the key alone."""
    import numpy as np

    digest = hashlib.shake_128(key.encode()).digest(TEXT_WIDTH // 8)
    return np.unpackbits(np.frombuffer(digest, np.uint8)).astype(np.float32) * 2 - 1


class T5TextEncoder:
    """The encoder half of T5: truncated and padded to 512 tokens, rows after the prompt's end set to zero."""

    name = "t5"

    def __init__(self, path: str, device: str | torch.device, dtype: torch.dtype):
        from transformers import AutoTokenizer, T5EncoderModel

        try:
            self.tokenizer = AutoTokenizer.from_pretrained(path)
            model = T5EncoderModel.from_pretrained(path, dtype=dtype)
        except (OSError, ValueError) as error:
            raise DataError(
                f'text encoder t5: nothing usable at "{path}" ({str(error).strip().splitlines()[0]}). Download it '
                f"first (hf download {DEFAULT_T5}) and give the folder, set HF_HOME to a cache that has it, or use the "
                f"weight-free text encoder: hashed."
            ) from error
        if model.config.d_model != TEXT_WIDTH:
            raise DataError(
                f'text encoder t5: "{path}" is {model.config.d_model} wide, the networks need {TEXT_WIDTH}. '
                f"Use {DEFAULT_T5}."
            )
        self.device = device
        self.model = model.to(device).eval()

    def encode(self, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        tokens = self.tokenizer(
            prompts, max_length=NUM_TEXT_TOKENS, padding="max_length", truncation=True, return_tensors="pt"
        )
        mask = tokens.attention_mask.to(self.device)
        with torch.inference_mode():
            states = self.model(input_ids=tokens.input_ids.to(self.device), attention_mask=mask).last_hidden_state
        # Every prompt is padded on the right, so the mask alone says which rows to keep.
        kept = torch.where(mask[..., None].bool(), states, torch.zeros_like(states))
        return kept.cpu().clone(), mask.sum(dim=1).cpu()

    def count_tokens(self, prompt: str) -> int:
        return len(self.tokenizer(prompt).input_ids)
