# SPDX-License-Identifier: Apache-2.0
"""Disks, Hugging Face, and what can start jobs here. Secrets are looked for and never shown."""

import os
import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Iterator

from cosmos1.doctor.finding import Finding

_RUN_FOLDER_GIB = (
    250  # two checkpoints of 7B (fp32 weights and Adam moments, 12 bytes per parameter) and one in the making
)
_NETWORK_LIMIT_S = 3


def check(log_dir: Path, network: bool) -> Iterator[Finding]:
    """``log_dir``: where runs will be kept. ``network``: also try to reach Hugging Face."""
    yield _folder("run folder", log_dir, _RUN_FOLDER_GIB, "log.log_dir=FOLDER")
    yield from _hugging_face(network)
    yield _wandb()
    yield _container()
    tools = [name for name in ("sbatch", "docker", "podman", "enroot", "apptainer") if shutil.which(name)]
    yield Finding(
        "ok", "launchers", ", ".join(tools) or "no Slurm and no container engine here; torchrun is enough for one node"
    )
    if "docker" in tools and not _answers(["docker", "version"]):
        yield Finding(
            "note",
            "docker",
            "the command is here, its daemon does not answer",
            "start dockerd, or join the group docker",
        )


def _folder(subject: str, path: Path, wanted_gib: float, setting: str) -> Finding:
    """Whether a folder, or the nearest one above it that exists, can be written and has room."""
    existing = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return Finding("problem", subject, f"{path}: {existing} cannot be written", f"give another one: {setting}")
    free_gib = shutil.disk_usage(existing).free / 2**30
    text = f"{path}: {free_gib:.0f} GiB free"
    if free_gib < 1:
        return Finding("problem", subject, text, f"free space, or {setting}")
    if free_gib < wanted_gib:
        return Finding(
            "note", subject, f"{text}; checkpoints of 7B need {wanted_gib:.0f}", f"for 7B: free space, or {setting}"
        )
    return Finding("ok", subject, text)


def _hugging_face(network: bool) -> Iterator[Finding]:
    try:
        from huggingface_hub import constants, get_token
    except ImportError:
        return  # reported with the software
    yield _folder("HF_HOME", Path(constants.HF_HOME), 40, "HF_HOME=FOLDER")
    remedy = "accept the licence on the model's page, then export HF_TOKEN=... (or: hf auth login)"
    if get_token():
        yield Finding("ok", "HF token", "present (not shown)")
    else:
        yield Finding("note", "HF token", "none: gated weights cannot be fetched", remedy)
    if constants.HF_HUB_OFFLINE:
        remedy = "unset HF_HUB_OFFLINE, or fetch first: python -m cosmos1.hub download --model MODEL"
        yield Finding("note", "HF access", "HF_HUB_OFFLINE is set: only what HF_HOME holds can be used", remedy)
    elif network:
        yield _reach(constants.ENDPOINT)
    else:
        yield Finding("ok", "HF access", "not tried; --network tries")


def _reach(endpoint: str) -> Finding:
    try:
        urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=_NETWORK_LIMIT_S)
    except urllib.error.HTTPError:
        pass  # it answered
    except (OSError, ValueError) as error:
        remedy = (
            "export https_proxy=..., or work offline: export HF_HUB_OFFLINE=1 after fetching elsewhere into HF_HOME"
        )
        return Finding("note", "HF access", f"{endpoint} does not answer: {getattr(error, 'reason', error)}", remedy)
    return Finding("ok", "HF access", f"{endpoint} answers")


def _wandb() -> Finding:
    mode, key = os.environ.get("WANDB_MODE"), os.environ.get("WANDB_API_KEY")
    if mode == "offline":
        return Finding("ok", "wandb", "records offline (WANDB_MODE=offline); upload later: wandb sync")
    if mode == "disabled" or not key:
        return Finding("ok", "wandb", "off; WANDB_API_KEY or WANDB_MODE=offline turns it on")
    if len(key) < 40:
        return Finding(
            "note",
            "wandb",
            "WANDB_API_KEY is too short to be a key (not shown)",
            "copy it again from wandb.ai/authorize",
        )
    return Finding("ok", "wandb", "on, key present (not shown)")


def _container() -> Finding:
    marks = {"/.dockerenv": "Docker", "/run/.containerenv": "Podman", "/.singularity.d": "Apptainer"}
    found = next((name for path, name in marks.items() if Path(path).exists()), None)
    found = found or ("enroot" if os.environ.get("ENROOT_ROOTFS") or os.environ.get("PYXIS_VERSION") else None)
    job = os.environ.get("SLURM_JOB_ID")
    text = f"inside {found}" if found else "not inside a container"
    return Finding("ok", "container", text + (f", Slurm job {job}" if job else ""))


def _answers(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=2).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False
