# SPDX-License-Identifier: Apache-2.0
"""The discrete Cosmos tokenizers (DV8x16x16, DV4x8x8) from their TorchScript files encoder.jit and decoder.jit.

encoder.jit: video (B, 3, T, H, W) bfloat16 in [-1, 1] -> (ids int32 (B, t, h, w), codes (B, 6, t, h, w), a loss).
decoder.jit: ids (B, t, h, w) -> video (B, 3, T, H, W).
"""

from __future__ import annotations

from pathlib import Path

import torch

from cosmos1.errors import ConfigError, DataError
from cosmos1.models.tokenizers import fsq
from cosmos1.models.tokenizers.token_grid import check_clip, check_ids, clip_shape

HUB_NAMES = {
    (8, 16, 16): "nvidia/Cosmos-1.0-Tokenizer-DV8x16x16",
    (4, 8, 8): "nvidia/Cosmos-0.1-Tokenizer-DV4x8x8",
}
CLIPS_PER_ENCODER_CALL, CLIPS_PER_DECODER_CALL = 8, 4


class CosmosDvTokenizer:
    """Published discrete tokenizer of one compression; with one of the two files it can do one of the two ways.

    A path is a .jit file, a folder that holds encoder.jit and decoder.jit, or a Hugging Face id (fetched if needed).
    """

    name = "cosmos_dv"
    vocab_size = fsq.NUM_CODES

    def __init__(
        self,
        compression: tuple[int, int, int],
        encoder_path: str | None,
        decoder_path: str | None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.bfloat16,
    ):
        self.compression = tuple(compression)
        self.device, self.dtype = torch.device(device), dtype
        self._encoder = self._load(encoder_path, "encoder.jit")
        self._decoder = self._load(decoder_path, "decoder.jit")

    @torch.no_grad()
    def encode(self, video_BCTHW: torch.Tensor) -> torch.Tensor:
        """Encode (B, 3, T, H, W) in [-1, 1] to ids (B, t, h, w) int64. Raises DataError when the file is another's."""
        if self._encoder is None:
            raise ConfigError(f"tokenizer {self.name}: no encoder was given, only the decoder. Give encoder_path.")
        grid = check_clip(self.name, self.compression, video_BCTHW)
        parts = [
            self._encoder(clips.to(self.device, self.dtype))[0] for clips in video_BCTHW.split(CLIPS_PER_ENCODER_CALL)
        ]
        ids = torch.cat(parts).long()
        if list(ids.shape[1:]) != grid:
            raise DataError(self._wrong_file("encoder.jit", f"ids {tuple(ids.shape[1:])}", tuple(grid)))
        check_ids(ids, self.vocab_size, f"tokenizer {self.name}: encoder.jit")
        return ids

    @torch.no_grad()
    def decode(self, ids_BTHW: torch.Tensor) -> torch.Tensor:
        """Decode ids (B, t, h, w) to (B, 3, T, H, W) float32, not clamped. Raises DataError for ids out of range."""
        if self._decoder is None:
            raise ConfigError(f"tokenizer {self.name}: no decoder was given, only the encoder. Give decoder_path.")
        check_ids(ids_BTHW, self.vocab_size, f"decoding with {self.name}")
        parts = [_first(self._decoder(ids.int().to(self.device))) for ids in ids_BTHW.split(CLIPS_PER_DECODER_CALL)]
        video = torch.cat(parts).float()
        expected = clip_shape(list(ids_BTHW.shape[1:]), self.compression)
        if list(video.shape[2:]) != expected:
            raise DataError(self._wrong_file("decoder.jit", f"a video {tuple(video.shape[2:])}", tuple(expected)))
        return video

    def _load(self, path: str | None, file_name: str) -> torch.jit.ScriptModule | None:
        if not path:
            return None
        # The fuser for element-wise chains miscompiles these traced modules; it is a process-wide switch.
        torch._C._jit_set_texpr_fuser_enabled(False)
        file = _find(path, file_name, self._how_to_get())
        try:
            return torch.jit.load(file, map_location=self.device).eval().to(self.dtype)
        except Exception as error:  # a damaged file raises whatever its reader happens to meet
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise DataError(
                f"tokenizer {self.name}: {file} cannot be loaded ({reason}). {self._how_to_get()}"
            ) from error

    def _wrong_file(self, file_name: str, found: str, needed: tuple[int, ...]) -> str:
        factors = ",".join(str(factor) for factor in self.compression)
        return (
            f"tokenizer {self.name}: {file_name} gives {found}, the compression factor {factors} gives {needed}. Give the "
            f"file of that tokenizer, or the compression factor of this file."
        )

    def _how_to_get(self) -> str:
        name = HUB_NAMES.get(self.compression, HUB_NAMES[8, 16, 16])
        return (
            f"Get the files with: hf download {name} --local-dir tokenizer (accept its licence on the hub and set "
            f"HF_TOKEN), then give that folder; or use the weight-free tokenizer: dct_fsq."
        )


def _find(path: str, file_name: str, how_to_get: str) -> Path:
    """Return the file that a path means; a Hugging Face id is fetched. Raises DataError when there is none."""
    place = Path(path).expanduser()
    if not place.exists() and path.startswith("nvidia/"):
        place = _fetch(path, file_name, how_to_get)
    file = place / file_name if place.is_dir() else place
    if not file.is_file():
        raise DataError(f"tokenizer cosmos_dv: there is no file {file}. {how_to_get}")
    return file


def _fetch(name: str, file_name: str, how_to_get: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, file_name))
    except Exception as error:  # no network, no access, offline mode, ... each library version has its own classes
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"tokenizer cosmos_dv: {name} is neither in the cache nor can be downloaded ({reason}). {how_to_get}"
        ) from error


def _first(output: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output[0]
