# SPDX-License-Identifier: Apache-2.0
"""The continuous Cosmos tokenizer CV8x8x8, from its TorchScript files or from a diffusers AutoencoderKLCosmos.

Both give the same latents: z = (encoder output - mean) / std with statistics per channel and per latent time position.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from cosmos1.errors import ConfigError, DataError
from cosmos1.models.tokenizers.protocol import check_video_shape

if TYPE_CHECKING:
    from diffusers import AutoencoderKLCosmos

HUB_NAME = "nvidia/Cosmos-1.0-Tokenizer-CV8x8x8"
TORCHSCRIPT_FILES = ("encoder.jit", "decoder.jit", "mean_std.pt")
DIFFUSERS_FILE = "config.json"


class CosmosCvTokenizer:
    """CV8x8x8 around two functions: `run_encoder` (B, 3, T, H, W) -> (B, 16, t, h, w) and `run_decoder` back.

    `mean` and `std` are (16, number of latent positions). A video may be shorter than the positions allow, not longer.
    """

    name = "cosmos_cv8x8x8"
    latent_channels = 16
    temporal_factor = 8
    spatial_factor = 8

    def __init__(
        self,
        run_encoder: Callable[[torch.Tensor], torch.Tensor],
        run_decoder: Callable[[torch.Tensor], torch.Tensor],
        mean: torch.Tensor,
        std: torch.Tensor,
        device: str | torch.device,
        dtype: torch.dtype,
    ):
        self.run_encoder, self.run_decoder = run_encoder, run_decoder
        self.mean, self.std = mean.float().to(device), std.float().to(device)
        self.device, self.dtype = torch.device(device), dtype

    @torch.no_grad()
    def encode(self, video_BCTHW: torch.Tensor) -> torch.Tensor:
        """Encode (B, 3, T, H, W) in [-1, 1] to normalised latents (B, 16, (T-1)/8 + 1, H/8, W/8)."""
        check_video_shape(self, video_BCTHW)
        raw = self.run_encoder(video_BCTHW.to(self.device, self.dtype))
        mean, std = self._statistics(raw.shape[2])
        # In float32, cast last: one rounding instead of three.
        return ((raw.float() - mean) / std).to(self.dtype)

    @torch.no_grad()
    def decode(self, latent_BCTHW: torch.Tensor) -> torch.Tensor:
        """Decode normalised latents (B, 16, t, h, w) to (B, 3, 8 (t-1) + 1, 8 h, 8 w); not clamped."""
        mean, std = self._statistics(latent_BCTHW.shape[2])
        raw = latent_BCTHW.to(self.device).float() * std + mean
        return self.run_decoder(raw.to(self.dtype))

    def _statistics(self, num_latent_frames: int) -> tuple[torch.Tensor, torch.Tensor]:
        positions = self.mean.shape[1]
        if num_latent_frames > positions:
            raise ConfigError(
                f"tokenizer {self.name}: {num_latent_frames} latent frames, but its statistics cover {positions} "
                f"({8 * (positions - 1) + 1} pixel frames). Use shorter chunks."
            )
        shape = (1, self.latent_channels, num_latent_frames, 1, 1)
        return self.mean[:, :num_latent_frames].reshape(shape), self.std[:, :num_latent_frames].reshape(shape)


def load_cosmos_cv(
    path: str | None, num_frames: int = 121, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> CosmosCvTokenizer:
    """Load CV8x8x8 from a folder that holds either kind of files; without a path, from the Hugging Face hub or cache.

    `num_frames` is the longest chunk that will be encoded. Raises DataError saying which files were looked for.
    """
    dtype = dtype or torch.bfloat16
    folder = Path(path) if path else _download()
    if all((folder / name).is_file() for name in TORCHSCRIPT_FILES):
        tokenizer = _from_torchscript(folder, device, dtype)
    elif (folder / DIFFUSERS_FILE).is_file() or (folder / "vae" / DIFFUSERS_FILE).is_file():
        from diffusers import AutoencoderKLCosmos

        source = folder if (folder / DIFFUSERS_FILE).is_file() else folder / "vae"
        try:
            autoencoder = AutoencoderKLCosmos.from_pretrained(source, torch_dtype=dtype)
        except (OSError, ValueError) as error:
            raise DataError(f"{source}: not a usable AutoencoderKLCosmos ({error}). {_how_to_get()}") from error
        tokenizer = from_autoencoder(autoencoder, device, dtype)
    else:
        missing = [name for name in TORCHSCRIPT_FILES if not (folder / name).is_file()]
        raise DataError(
            f"tokenizer cosmos_cv8x8x8: {folder} has neither the TorchScript files (missing: {', '.join(missing)}) nor "
            f"a diffusers {DIFFUSERS_FILE} (looked in it and in its folder vae). {_how_to_get()}"
        )
    num_latent_frames = (num_frames - 1) // CosmosCvTokenizer.temporal_factor + 1
    tokenizer._statistics(num_latent_frames)
    return tokenizer


def from_autoencoder(
    autoencoder: AutoencoderKLCosmos, device: str | torch.device = "cpu", dtype: torch.dtype = torch.bfloat16
) -> CosmosCvTokenizer:
    """Wrap a diffusers autoencoder; its configuration holds the statistics."""
    autoencoder = autoencoder.to(device, dtype).eval()
    channels = CosmosCvTokenizer.latent_channels
    if autoencoder.config.latents_mean is None:
        mean, std = torch.zeros(channels, 1024), torch.ones(channels, 1024)
    else:
        mean = torch.tensor(autoencoder.config.latents_mean).reshape(channels, -1)
        std = torch.tensor(autoencoder.config.latents_std).reshape(channels, -1)
    return CosmosCvTokenizer(
        lambda video: autoencoder.encode(video).latent_dist.mode(),
        lambda latent: autoencoder.decode(latent).sample,
        mean,
        std,
        device,
        dtype,
    )


def _from_torchscript(folder: Path, device: str | torch.device, dtype: torch.dtype) -> CosmosCvTokenizer:
    try:
        encoder = torch.jit.load(folder / "encoder.jit", map_location=device).eval().to(dtype)
        decoder = torch.jit.load(folder / "decoder.jit", map_location=device).eval().to(dtype)
        mean, std = torch.load(folder / "mean_std.pt", map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises whatever its reader happens to meet
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"tokenizer files in {folder} cannot be loaded ({reason}). {_how_to_get()}") from error
    channels = CosmosCvTokenizer.latent_channels
    return CosmosCvTokenizer(
        lambda video: _first(encoder(video)),
        lambda latent: _first(decoder(latent)),
        mean.reshape(channels, -1),
        std.reshape(channels, -1),
        device,
        dtype,
    )


def _first(output: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    # Some exports return extra values behind the result.
    return output if isinstance(output, torch.Tensor) else output[0]


def _download() -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(HUB_NAME, allow_patterns=list(TORCHSCRIPT_FILES)))
    except Exception as error:  # no network, no access, offline mode, ... each library version has its own classes
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"tokenizer cosmos_cv8x8x8: {HUB_NAME} is neither in the cache nor can be downloaded ({reason}). "
            f"{_how_to_get()}"
        ) from error


def _how_to_get() -> str:
    return (
        f"Get the files with: hf download {HUB_NAME} --local-dir tokenizer (accept its licence on the hub and set "
        f"HF_TOKEN; unset HF_HUB_OFFLINE), then give that folder; or use the weight-free tokenizer: dct."
    )
