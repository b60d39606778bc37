# SPDX-License-Identifier: Apache-2.0
"""The continuous Cosmos tokenizers CV8x8x8 and CV4x8x8, from TorchScript files or a diffusers AutoencoderKLCosmos.

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

# By temporal factor. The release of CV4x8x8 has no mean_std.pt: data_prep/latent_statistics.py measures it.
HUB_NAMES = {8: "nvidia/Cosmos-1.0-Tokenizer-CV8x8x8", 4: "nvidia/Cosmos-0.1-Tokenizer-CV4x8x8"}
TORCHSCRIPT_FILES = ("encoder.jit", "decoder.jit", "mean_std.pt")
DIFFUSERS_FILE = "config.json"


class CosmosCvTokenizer:
    """A tokenizer around two functions: `run_encoder` (B, 3, T, H, W) -> (B, 16, t, h, w) and `run_decoder` back.

    `mean` and `std` are (16, number of latent positions). A video may be shorter than the positions allow, not longer.
    """

    latent_channels = 16
    spatial_factor = 8

    def __init__(
        self,
        run_encoder: Callable[[torch.Tensor], torch.Tensor],
        run_decoder: Callable[[torch.Tensor], torch.Tensor],
        mean: torch.Tensor,
        std: torch.Tensor,
        device: str | torch.device,
        dtype: torch.dtype,
        temporal_factor: int = 8,
    ):
        self.name, self.temporal_factor = f"cosmos_cv{temporal_factor}x8x8", temporal_factor
        self.run_encoder, self.run_decoder = run_encoder, run_decoder
        self.mean, self.std = mean.float().to(device), std.float().to(device)
        self.device, self.dtype = torch.device(device), dtype

    @torch.no_grad()
    def encode(self, video_BCTHW: torch.Tensor) -> torch.Tensor:
        """Encode (B, 3, T, H, W) in [-1, 1] to normalised latents (B, 16, (T-1)/f + 1, H/8, W/8), f the temporal factor."""
        check_video_shape(self, video_BCTHW)
        raw = self.run_encoder(video_BCTHW.to(self.device, self.dtype))
        needed = (video_BCTHW.shape[2] - 1) // self.temporal_factor + 1
        if raw.shape[2] != needed:
            raise DataError(
                f"tokenizer {self.name}: {video_BCTHW.shape[2]} frames became {raw.shape[2]} latent frames, {needed} are "
                f"needed: its files are those of another tokenizer. {_how_to_get(self.temporal_factor)}"
            )
        mean, std = self._statistics(raw.shape[2])
        # In float32, cast last: one rounding instead of three.
        return ((raw.float() - mean) / std).to(self.dtype)

    @torch.no_grad()
    def decode(self, latent_BCTHW: torch.Tensor) -> torch.Tensor:
        """Decode normalised latents (B, 16, t, h, w) to (B, 3, f (t-1) + 1, 8 h, 8 w); not clamped."""
        mean, std = self._statistics(latent_BCTHW.shape[2])
        raw = latent_BCTHW.to(self.device).float() * std + mean
        return self.run_decoder(raw.to(self.dtype))

    def _statistics(self, num_latent_frames: int) -> tuple[torch.Tensor, torch.Tensor]:
        positions = self.mean.shape[1]
        if num_latent_frames > positions:
            raise ConfigError(
                f"tokenizer {self.name}: {num_latent_frames} latent frames, but its statistics cover {positions} "
                f"({self.temporal_factor * (positions - 1) + 1} pixel frames). Use shorter chunks."
            )
        shape = (1, self.latent_channels, num_latent_frames, 1, 1)
        return self.mean[:, :num_latent_frames].reshape(shape), self.std[:, :num_latent_frames].reshape(shape)


def load_cosmos_cv(
    path: str | None,
    num_frames: int = 121,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    temporal_factor: int = 8,
) -> CosmosCvTokenizer:
    """Load CV8x8x8, or CV4x8x8 (`temporal_factor` 4), from a folder that holds either kind of files.

    Without a path they come from the Hugging Face hub or its cache.

    `num_frames` is the longest chunk that will be encoded. Raises DataError saying which files were looked for.
    """
    dtype = dtype or torch.bfloat16
    folder = Path(path) if path else _download(temporal_factor)
    if all((folder / name).is_file() for name in TORCHSCRIPT_FILES):
        tokenizer = _from_torchscript(folder, device, dtype, temporal_factor)
    elif (folder / DIFFUSERS_FILE).is_file() or (folder / "vae" / DIFFUSERS_FILE).is_file():
        from diffusers import AutoencoderKLCosmos

        source = folder if (folder / DIFFUSERS_FILE).is_file() else folder / "vae"
        try:
            autoencoder = AutoencoderKLCosmos.from_pretrained(source, torch_dtype=dtype)
        except (OSError, ValueError) as error:
            advice = _how_to_get(temporal_factor)
            raise DataError(f"{source}: not a usable AutoencoderKLCosmos ({error}). {advice}") from error
        tokenizer = from_autoencoder(autoencoder, device, dtype, temporal_factor)
    else:
        missing = [name for name in TORCHSCRIPT_FILES if not (folder / name).is_file()]
        raise DataError(
            f"tokenizer cosmos_cv{temporal_factor}x8x8: {folder} has neither the TorchScript files (missing: "
            f"{', '.join(missing)}) nor a diffusers {DIFFUSERS_FILE} (looked in it and in its folder vae). "
            f"{_how_to_get(temporal_factor)}"
        )
    num_latent_frames = (num_frames - 1) // temporal_factor + 1
    tokenizer._statistics(num_latent_frames)
    return tokenizer


def from_autoencoder(
    autoencoder: AutoencoderKLCosmos,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.bfloat16,
    temporal_factor: int = 8,
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
        temporal_factor,
    )


def without_statistics(
    folder: Path, device: str | torch.device, dtype: torch.dtype, temporal_factor: int
) -> CosmosCvTokenizer:
    """The tokenizer of TorchScript files whose latents are left as the encoder makes them, for measuring them."""
    return _from_torchscript(folder, device, dtype, temporal_factor, normalise=False)


def _from_torchscript(
    folder: Path, device: str | torch.device, dtype: torch.dtype, temporal_factor: int, normalise: bool = True
) -> CosmosCvTokenizer:
    mean, std = (
        torch.zeros(CosmosCvTokenizer.latent_channels, 1024),
        torch.ones(CosmosCvTokenizer.latent_channels, 1024),
    )
    try:
        encoder = torch.jit.load(folder / "encoder.jit", map_location=device).eval().to(dtype)
        decoder = torch.jit.load(folder / "decoder.jit", map_location=device).eval().to(dtype)
        if normalise:
            mean, std = torch.load(folder / "mean_std.pt", map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises whatever its reader happens to meet
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        advice = _how_to_get(temporal_factor)
        raise DataError(f"tokenizer files in {folder} cannot be loaded ({reason}). {advice}") from error
    channels = CosmosCvTokenizer.latent_channels
    return CosmosCvTokenizer(
        lambda video: _first(encoder(video)),
        lambda latent: _first(decoder(latent)),
        mean.reshape(channels, -1),
        std.reshape(channels, -1),
        device,
        dtype,
        temporal_factor,
    )


def _first(output: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    # Some exports return extra values behind the result.
    return output if isinstance(output, torch.Tensor) else output[0]


def _download(temporal_factor: int) -> Path:
    from huggingface_hub import snapshot_download

    name = HUB_NAMES[temporal_factor]
    try:
        return Path(snapshot_download(name, allow_patterns=list(TORCHSCRIPT_FILES)))
    except Exception as error:  # no network, no access, offline mode, ... each library version has its own classes
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"tokenizer cosmos_cv{temporal_factor}x8x8: {name} is neither in the cache nor can be downloaded ({reason}). "
            f"{_how_to_get(temporal_factor)}"
        ) from error


def _how_to_get(temporal_factor: int) -> str:
    statistics = "" if temporal_factor == 8 else " Its mean_std.pt is made with data_prep/latent_statistics.py."
    return (
        f"Get the files with: hf download {HUB_NAMES[temporal_factor]} --local-dir tokenizer (accept its licence on the hub "
        f"and set HF_TOKEN; unset HF_HUB_OFFLINE), then give that folder; or use a weight-free tokenizer: "
        f"{'dct' if temporal_factor == 8 else 'dct4x8x8'}.{statistics}"
    )
