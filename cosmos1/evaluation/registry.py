# SPDX-License-Identifier: Apache-2.0
"""Every metric by name. To add one, write its function and one entry of METRICS."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Callable, Dict, Optional

from cosmos1.errors import ConfigError
from cosmos1.evaluation import metrics, networks


@dataclass(frozen=True)
class MetricSettings:
    """What metrics need beside the videos. Paths name files of the user."""

    tokenizer: str = "dct"
    tokenizer_path: Optional[str] = None
    lpips_weights: Optional[str] = None
    fvd_weights: Optional[str] = None
    fid_weights: Optional[str] = None


@dataclass(frozen=True)
class Metric:
    """How a metric is called, read and computed.

    `prepare(settings)` loads what is needed and returns a function. For a metric of pairs it is
    (generated, reference) -> Score; for a metric of sets (`of_sets`) it is frames -> features (N, D), whose Frechet
    distance over all videos is the result.
    """

    title: str
    unit: str
    higher_is_better: bool
    prepare: Callable[[MetricSettings], Callable[..., Any]]
    of_sets: bool = False


def _tokenizer_distance(settings: MetricSettings) -> Callable[..., Any]:
    from cosmos1.models.tokenizers.video import build_video_tokenizer
    from cosmos1.parallel.device import device

    tokenizer = build_video_tokenizer(settings.tokenizer, settings.tokenizer_path, device=device())
    return partial(metrics.latent_l2, tokenizer)


def _of_network(name: str, title: str, measure: Callable[..., Any], of_sets: bool = False) -> Metric:
    """A metric that looks through the network of `--<name>_weights`; lower is better."""

    def prepare(settings: MetricSettings) -> Callable[..., Any]:
        return partial(measure, networks.load_network(name, getattr(settings, f"{name}_weights")))

    return Metric(title, "", False, prepare, of_sets)


METRICS: Dict[str, Metric] = {
    "psnr": Metric("PSNR", "dB", True, lambda settings: metrics.psnr),
    "ssim": Metric("SSIM", "", True, lambda settings: metrics.ssim),
    "latent_l2": Metric("latent L2", "", False, _tokenizer_distance),
    "lpips": _of_network("lpips", "LPIPS", networks.lpips),
    "fid": _of_network("fid", "FID", networks.picture_features, of_sets=True),
    "fvd": _of_network("fvd", "FVD", networks.video_features, of_sets=True),
}


def find_metric(name: str) -> Metric:
    """The metric of this name. Raises ConfigError, with the closest name, when there is none."""
    from cosmos1.models.tokenizers.video import unknown_name_message

    if name not in METRICS:
        raise ConfigError(unknown_name_message("metric", name, tuple(METRICS)))
    return METRICS[name]
