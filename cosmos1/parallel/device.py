# SPDX-License-Identifier: Apache-2.0
"""The device of this process: a CUDA GPU where there is one, otherwise the CPU. Nothing else in the house asks."""

import os
import resource
from functools import lru_cache

import torch

# Dense bf16 peak of one device in TFLOP/s, from the vendors' data sheets (SXM parts). MFU is stated against these.
PEAK_BF16_TFLOPS = {
    "H200": 989.0,
    "H100": 989.0,
    "H20": 148.0,
    "B200": 2250.0,
    "GB200": 2500.0,
    "A100": 312.0,
    "L40S": 362.0,
}


@lru_cache(maxsize=1)
def device() -> torch.device:
    """The device that this process computes on (``LOCAL_RANK`` picks the GPU)."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    return torch.device("cpu")


def is_cuda() -> bool:
    return device().type == "cuda"


def backend() -> str:
    """Process-group backend. On GPUs gloo stays beside NCCL because some collectives carry CPU tensors."""
    return "cpu:gloo,cuda:nccl" if is_cuda() else "gloo"


def activate() -> None:
    """Make :func:`device` the current CUDA device; on CPU share the cores among the local processes."""
    if is_cuda():
        torch.cuda.set_device(device())
    elif "OMP_NUM_THREADS" not in os.environ or "TORCHELASTIC_RUN_ID" in os.environ:
        local_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local_ranks))


def synchronize() -> None:
    if is_cuda():
        torch.cuda.synchronize()


def reset_peak_memory() -> None:
    if is_cuda():
        torch.cuda.reset_peak_memory_stats()


def peak_memory_gib() -> float:
    """Largest memory held so far: allocated GPU memory, or the resident set of the process on CPU."""
    if is_cuda():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def device_name() -> str:
    return torch.cuda.get_device_name() if is_cuda() else "CPU"


def peak_tflops() -> float | None:
    """Dense bf16 peak of this device in TFLOP/s, or None where no figure is known (CPU: MFU is not reported)."""
    words = device_name().replace("-", " ").split()
    return next((PEAK_BF16_TFLOPS[word] for word in words if word in PEAK_BF16_TFLOPS), None)


def release_memory() -> None:
    """Give freed GPU memory back, before something else large is loaded."""
    if is_cuda():
        torch.cuda.empty_cache()
