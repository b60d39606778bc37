# SPDX-License-Identifier: Apache-2.0
"""One cached diffusion sample: loading, checking, and stacking into a batch.

Used by every data module that reads latents. Shapes: C = 16 channels, t latent frames, h w latent grid, L text tokens.
"""

from pathlib import Path
from typing import Any, BinaryIO, Dict, List, Optional, Union

from cosmos1.conditioning.settings import NUM_TEXT_TOKENS
from cosmos1.data.files import read_json
from cosmos1.data.text_rows import check_text_shape
from cosmos1.errors import DataError

LATENT_CHANNELS = 16
SPATIAL_FACTOR = 8
LARGEST_PLAUSIBLE_LATENT = 1e3
LATENT_PART, TOKENS_PART = "video_latent.pth", "video_tokens.pth"
TEXT_PARTS = ("t5_text_embeddings.pth", "t5_text_mask.pth")
REQUIRED_PARTS = ("info.json", LATENT_PART, *TEXT_PARTS)
CONDITIONING_PART = "conditioning_latent.pth"


def read_info(path: Path) -> Dict[str, Any]:
    """Read one `[i].info.json`. Raises DataError when it is not a JSON object with the mandatory keys."""
    info = read_json(path, "Prepare this sample again.")
    missing = [key for key in ("fps", "num_frames", "video_path") if not isinstance(info, dict) or key not in info]
    if missing:
        raise DataError(f"{path}: has no key {', '.join(missing)}. Prepare this sample again.")
    return info


def load_tensor(source: Union[Path, BinaryIO], where: str = ""):
    """Load one plain tensor from a file or a buffer; `where` names a buffer in messages.

    Raises DataError when the file is missing, truncated, or holds anything else.
    """
    import torch

    try:
        tensor = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file; all mean the same to the user
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"{where or source}: cannot be loaded as a tensor ({reason}); the file is missing, truncated, or "
            f"holds other objects. Delete this sample's files and prepare it again with --resume."
        ) from error
    if not isinstance(tensor, torch.Tensor):
        raise DataError(
            f"{where or source}: holds a {type(tensor).__name__}, a tensor is needed. Prepare this sample again."
        )
    return tensor


def check_latent(latent, where: str, expected_shape: Optional[List[int]] = None, expected_from: str = "") -> None:
    """Raise DataError unless `latent` is (16, t, h, w) of `expected_shape` with finite, plausible values."""
    import torch

    shape = list(latent.shape)
    if len(shape) != 4 or shape[0] != LATENT_CHANNELS:
        raise DataError(f"{where} has shape {tuple(shape)}, expected ({LATENT_CHANNELS}, t, h, w). Prepare it again.")
    if expected_shape is not None and shape != list(expected_shape):
        raise DataError(
            f"{where} is {tuple(shape)} but {expected_from} is {tuple(expected_shape)}. All samples of a run have one "
            f"shape: prepare the folder again with one --height, --width and --num_frames."
        )
    num_bad = int((~(latent.float().abs() <= LARGEST_PLAUSIBLE_LATENT)).sum())
    if num_bad:
        num_nonfinite = int((~torch.isfinite(latent.float())).sum())
        raise DataError(
            f"{where}: {num_bad} values are not usable ({num_nonfinite} are NaN or infinite, the others exceed "
            f"{LARGEST_PLAUSIBLE_LATENT:g}). Prepare this sample again, if need be with --dtype float32."
        )


def pad_text(embeddings, mask, where: str):
    """Check text (L, 1024) with mask (L,) and pad both with zeros to 512 tokens. Raises DataError."""
    from torch.nn.functional import pad

    check_text_shape(embeddings.shape, where)
    if mask.ndim != 1 or len(mask) != len(embeddings):
        raise DataError(f"{where}: the text mask has shape {tuple(mask.shape)}, the embeddings {len(embeddings)} rows.")
    missing = NUM_TEXT_TOKENS - len(embeddings)
    return pad(embeddings, (0, 0, 0, missing)), pad(mask, (0, missing))


def finish_sample(latent, embeddings, mask, info: Dict[str, Any], position: int) -> Dict[str, Any]:
    """Put one checked sample into the form of the batch, without the batch axis."""
    import torch

    _, _, h, w = latent.shape
    height, width = info.get("target_height", h * SPATIAL_FACTOR), info.get("target_width", w * SPATIAL_FACTOR)
    return {
        "video": latent,
        "t5_text_embeddings": embeddings,
        "t5_text_mask": mask,
        # Sizes and rates keep full precision: bfloat16 would turn 29.97 into 30.
        "image_size": torch.tensor([height, width, height, width], dtype=torch.int64),
        "fps": torch.tensor(float(info["fps"]), dtype=torch.float32),
        "num_frames": torch.tensor(int(info["num_frames"]), dtype=torch.int64),
        "padding_mask": torch.zeros(1, h, w, dtype=torch.float32),
        "sample_position": torch.tensor(position, dtype=torch.int64),
    }


def load_folder_sample(
    folder: Path,
    name: str,
    position: int,
    with_conditioning: bool,
    expected_shape: Optional[List[int]] = None,
    expected_from: str = "",
) -> Dict[str, Any]:
    """Load sample `name` of a cached folder. `expected_from` says in words whose shape `expected_shape` is.

    Raises DataError naming the sample and the file for anything that would make training wrong or fail later.
    """
    info = read_info(folder / f"{name}.info.json")
    latent = load_tensor(folder / f"{name}.video_latent.pth")
    check_latent(latent, f"{folder}: sample {name}: video_latent", expected_shape, expected_from)
    embeddings, mask = pad_text(
        load_tensor(folder / f"{name}.t5_text_embeddings.pth"),
        load_tensor(folder / f"{name}.t5_text_mask.pth"),
        f"{folder}: sample {name}",
    )
    sample = finish_sample(latent, embeddings, mask, info, position)
    if with_conditioning:
        sample["gt_latent"] = load_tensor(folder / f"{name}.{CONDITIONING_PART}")
        where = f"{folder}: sample {name}: conditioning_latent"
        check_latent(sample["gt_latent"], where, list(latent.shape), "its video_latent")
    return sample
