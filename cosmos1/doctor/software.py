# SPDX-License-Identifier: Apache-2.0
"""Versions of what the suite stands on. Read from the packages' records, so that only torch is imported."""

import re
import shutil
import sys
from importlib import metadata
from typing import Iterator

from cosmos1.doctor.finding import Finding

# Name of the package, whether training needs it, versions that are known to work (as in setup.py), what is lost without it.
_PACKAGES = [
    ("megatron-core", True, "0.16.1", ""),
    ("nemo_run", True, "0.11.1", ""),
    ("leptonai", True, ">=0.26.6,<0.47", ""),
    ("psutil", True, "", ""),
    ("numpy", True, ">=2", ""),
    ("einops", True, "", ""),
    ("safetensors", True, "", ""),
    ("huggingface_hub", True, "", ""),
    ("tensorboard", True, "", ""),
    ("matplotlib", True, "", ""),
    ("rich", True, "", ""),
    ("av", False, ">=17", "videos can be neither read nor written: no data preparation, no sample videos"),
    ("transformers", False, "", "no T5 text embeddings; the hashed ones work"),
    ("diffusers", False, "", "no diffusers tokenizer CV8x8x8; its TorchScript files and the DCT tokenizer work"),
    ("scikit-image", False, "", "no SSIM in evaluations"),
    ("scipy", False, "", "no tar files of multi-view rigs, no view consistency"),
    ("pillow", False, "", "no data sets of images, no contact sheets"),
    ("pyarrow", False, "", "no LeRobot data sets"),
    ("opencv-python-headless", False, "", "no camera pose and no view consistency in evaluations"),
    ("webdataset", False, "", "no shards; latent folders work"),
    ("megatron-energon", False, "7.4.1", "no shards; latent folders work"),
    ("wandb", False, ">=0.26", "no wandb; metrics.jsonl and TensorBoard work"),
]
_OPTIONAL = ("transformer-engine", "apex", "flash-attn", "nvidia-resiliency-ext")
_INSTALL = "python -m pip install -e . (in the folder of setup.py)"


def check() -> Iterator[Finding]:
    """Python, torch, and every package that setup.py names."""
    yield _python()
    yield _torch()
    for name, needed, wanted, loss in _PACKAGES:
        found = version(name)
        if found is None:
            level = "problem" if needed else "note"
            yield Finding(level, name, f"not installed{': ' + loss if loss else ''}", _INSTALL)
        elif not satisfies(found, wanted):
            yield Finding("problem" if needed else "note", name, f"{found}, made for {wanted}", _INSTALL)
        else:
            yield Finding("ok", name, found)
    present = [f"{name} {version(name)}" for name in _OPTIONAL if version(name)]
    yield Finding("ok", "extras", ", ".join(present) or f"none of {', '.join(_OPTIONAL)}; none is required")
    if shutil.which("torchrun") is None:
        remedy = f"activate the environment, or call {sys.executable} -m torch.distributed.run instead"
        yield Finding("note", "torchrun", "not on PATH", remedy)


def version(name: str) -> str | None:
    """Version of an installed package, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def satisfies(found: str, wanted: str) -> bool:
    """Whether a version lies in a range such as ``>=0.26.6,<0.47``; without an operator it must be equal."""
    comparisons = {
        "": lambda a, b: a == b,
        ">=": lambda a, b: a >= b,
        "<": lambda a, b: a < b,
    }
    for condition in filter(None, wanted.split(",")):
        operator, bound = re.fullmatch(r"(>=|<|)(.+)", condition).groups()
        if not comparisons[operator](_numbers(found), _numbers(bound)):
            return False
    return True


def _numbers(text: str) -> list[int]:
    return [int(part) for part in re.match(r"\d+(\.\d+)*", text)[0].split(".")]


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    if not (3, 10) <= sys.version_info[:2] < (3, 14):
        return Finding("problem", "Python", f"{found}; 3.10 to 3.13 are supported", "python3.11 -m venv .venv")
    return Finding("ok", "Python", f"{found}, {sys.executable}")


def _torch() -> Finding:
    found = version("torch")
    if found is None:
        return Finding("problem", "torch", "not installed", _INSTALL)
    try:
        import torch
    except Exception as error:  # a broken installation raises whatever its loader raises
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return Finding("problem", "torch", f"{found} cannot be imported: {reason}", _INSTALL)
    cuda, cudnn = torch.version.cuda, torch.backends.cudnn.version()
    built_for = f"CUDA {cuda}, cuDNN {cudnn}" if cuda else "CPU only"
    if not satisfies(found, ">=2.11,<2.14"):
        return Finding("note", "torch", f"{found} ({built_for}), tested with 2.11 to 2.13", _INSTALL)
    return Finding("ok", "torch", f"{found} ({built_for})")
