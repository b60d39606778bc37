# SPDX-License-Identifier: Apache-2.0
"""GPUs, what their attention can use, and limits of the machine."""

import os
import resource
import shutil
import subprocess
from pathlib import Path
from typing import Iterator

from cosmos1.doctor.finding import Finding


def check() -> Iterator[Finding]:
    """Devices and limits. Expects that torch can be imported; says what the driver says where it cannot."""
    yield from _gpus()
    cores = len(os.sched_getaffinity(0))
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield Finding("ok", "CPU", f"{cores} cores for this process, {memory_gib:.0f} GiB memory")
    yield _shared_memory()
    yield from _limits()


def _gpus() -> Iterator[Finding]:
    seen_by_driver = _nvidia_smi()
    try:
        import torch
    except Exception:
        yield Finding("ok", "GPU", f"the driver lists {len(seen_by_driver)}; torch cannot be asked")
        return
    if not torch.cuda.is_available():
        yield _no_gpu(torch, seen_by_driver)
        return
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        text = f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB, compute capability {facts.major}.{facts.minor}"
        if facts.major < 8:
            yield Finding("note", f"GPU {index}", f"{text}: no bf16", "trainer.precision=fp32")
        else:
            yield Finding("ok", f"GPU {index}", text)
    yield _nccl(torch)
    backends = {name: getattr(torch.backends.cuda, f"{name}_sdp_enabled")() for name in ("cudnn", "flash", "math")}
    yield Finding(
        "ok", "attention", "scaled_dot_product_attention with " + ", ".join(k for k, on in backends.items() if on)
    )


def _no_gpu(torch, seen_by_driver: list[str]) -> Finding:
    if not seen_by_driver:
        text = "none; training runs on the CPU: right for tiny recipes and tests, far too slow for 7B"
        return Finding("note", "GPU", text)
    if torch.version.cuda is None:
        remedy = "python -m pip install --force-reinstall torch from the CUDA index named at pytorch.org/get-started"
        return Finding(
            "problem", "GPU", f"the driver lists {len(seen_by_driver)}, this torch is built for CPUs only", remedy
        )
    if os.environ.get("CUDA_VISIBLE_DEVICES") is not None:
        hidden = os.environ["CUDA_VISIBLE_DEVICES"]
        return Finding("problem", "GPU", f"hidden by CUDA_VISIBLE_DEVICES={hidden!r}", "unset CUDA_VISIBLE_DEVICES")
    remedy = "install a newer driver, or a torch for an older CUDA; in Docker start with --gpus all"
    return Finding(
        "problem", "GPU", f"torch for CUDA {torch.version.cuda} cannot use the driver ({seen_by_driver[0]})", remedy
    )


def _nvidia_smi() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=2, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return []


def _nccl(torch) -> Finding:
    if not torch.distributed.is_nccl_available():
        return Finding("problem", "NCCL", "this torch has none", "install torch for CUDA from pytorch.org")
    settings = {name: value for name, value in sorted(os.environ.items()) if name.startswith("NCCL_")}
    text = ".".join(map(str, torch.cuda.nccl.version()))
    return Finding("ok", "NCCL", text + "".join(f", {name}={value}" for name, value in settings.items()))


def _shared_memory() -> Finding:
    path = Path("/dev/shm")
    if not path.is_dir():
        return Finding(
            "note", "shared memory", "/dev/shm is missing: data workers cannot hand over batches", "data.num_workers=0"
        )
    size_gib = shutil.disk_usage(path).total / 2**30
    if size_gib < 1:
        remedy = "docker run --ipc=host (or --shm-size=16g); without it data.num_workers=0"
        return Finding("note", "shared memory", f"{size_gib:.2f} GiB: too little for data workers and NCCL", remedy)
    return Finding("ok", "shared memory", f"{size_gib:.0f} GiB")


def _limits() -> Iterator[Finding]:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    locked, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if files != resource.RLIM_INFINITY and files < 1024:
        yield Finding("note", "open files", f"at most {files}", "ulimit -n 65536 (docker run --ulimit nofile=65536)")
    else:
        yield Finding("ok", "open files", "no limit" if files == resource.RLIM_INFINITY else f"at most {files}")
    if locked != resource.RLIM_INFINITY and Path("/sys/class/infiniband").is_dir():
        remedy = "ulimit -l unlimited (docker run --ulimit memlock=-1)"
        yield Finding("note", "locked memory", f"at most {locked / 2**20:.0f} MiB: InfiniBand may fail", remedy)
