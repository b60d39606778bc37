# SPDX-License-Identifier: Apache-2.0
"""Metrics that look through a trained network: LPIPS, and the features of FID and FVD.

The networks are TorchScript files that the user gives by path; nothing is downloaded. Frames are (T, H, W, 3) uint8.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosmos1.errors import ConfigError
from cosmos1.evaluation.metrics import Score

if TYPE_CHECKING:
    import numpy as np
    import torch

BATCH_SIZE = 8
EXPECTED_FILES = {
    "lpips": "LPIPS as TorchScript: forward(a, b) with float pictures (N, 3, H, W) in [-1, 1] gives N distances. Make "
    'it once with the lpips package: torch.jit.trace(lpips.LPIPS(net="alex").eval(), (a, b)).save("lpips.pt")',
    "fid": "the Inception features as TorchScript: forward(pictures) with uint8 (N, 3, H, W) gives features (N, D); "
    "inception-2015-12-05.pt of the stylegan2-ada-pytorch project is such a file (D = 2048)",
    "fvd": "the I3D features as TorchScript: forward(video) with float (N, 3, T, H, W) in 0..255 gives features (N, D); "
    "i3d_torchscript.pt of the StyleGAN-V project is such a file (D = 400)",
}
# Arguments of the files named above: pictures in 0..255 of any size in, features instead of class scores out.
SWITCHES = ("rescale", "resize", "return_features")


def load_network(metric: str, path: str | None) -> Any:
    """Load the TorchScript network of a metric on this process's device, for inference.

    Raises ConfigError, which says what file is needed, when the path is not given, is no file, or is not TorchScript.
    """
    import torch

    from cosmos1.parallel.device import device

    option = f"--{metric}_weights"
    if path is None:
        raise ConfigError(f"--metrics {metric} needs {option} FILE, {EXPECTED_FILES[metric]}")
    if not Path(path).is_file():
        raise ConfigError(f"{option} {path}: there is no such file. Give {EXPECTED_FILES[metric]}")
    try:
        return torch.jit.load(path, map_location=device()).eval()
    except RuntimeError as error:
        raise ConfigError(f"{option} {path}: is not a TorchScript file. Give {EXPECTED_FILES[metric]}") from error


def lpips(network: Any, generated: "np.ndarray", reference: "np.ndarray") -> Score:
    """Learned perceptual distance of each frame, mean over frames; 0 is identical."""
    values = []
    for start in range(0, len(generated), BATCH_SIZE):
        batches = (
            _pictures(frames[start : start + BATCH_SIZE]).float() / 127.5 - 1 for frames in (generated, reference)
        )
        distances = _call("lpips", network, *batches).flatten().tolist()
        values += distances
    if len(values) != len(generated):
        raise ConfigError(
            f"the network of --lpips_weights gave {len(values)} numbers for {len(generated)} frames; needed is "
            f"{EXPECTED_FILES['lpips']}"
        )
    return Score(sum(values) / len(values), values)


def picture_features(network: Any, frames: "np.ndarray") -> "np.ndarray":
    """Features (T, D), float32, of every frame."""
    import numpy as np

    starts = range(0, len(frames), BATCH_SIZE)
    return np.concatenate(
        [_features("fid", network, _pictures(frames[start : start + BATCH_SIZE])) for start in starts]
    )


def video_features(network: Any, frames: "np.ndarray") -> "np.ndarray":
    """Features (1, D), float32, of the whole video."""
    return _features("fvd", network, _pictures(frames).permute(1, 0, 2, 3)[None].float())


def _pictures(frames: "np.ndarray") -> "torch.Tensor":
    """(N, H, W, 3) uint8 to (N, 3, H, W) uint8 on this process's device."""
    import torch

    from cosmos1.parallel.device import device

    return torch.from_numpy(frames).to(device()).permute(0, 3, 1, 2).contiguous()


def _features(metric: str, network: Any, batch: "torch.Tensor") -> "np.ndarray":
    names = {argument.name for argument in network.forward.schema.arguments}
    result = _call(metric, network, batch, **{name: True for name in SWITCHES if name in names})
    if result.ndim != 2 or len(result) != len(batch):
        raise ConfigError(
            f"the network of --{metric}_weights gave {tuple(result.shape)} for an input {tuple(batch.shape)}, features "
            f"({len(batch)}, D) are needed: {EXPECTED_FILES[metric]}"
        )
    return result.float().cpu().numpy()


def _call(metric: str, network: Any, *inputs: "torch.Tensor", **switches: bool) -> "torch.Tensor":
    import torch

    try:
        with torch.inference_mode():
            return network(*inputs, **switches)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ConfigError(
            f"the network of --{metric}_weights cannot take an input {tuple(inputs[0].shape)} ({reason}); needed is "
            f"{EXPECTED_FILES[metric]}"
        ) from error
