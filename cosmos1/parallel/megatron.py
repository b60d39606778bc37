# SPDX-License-Identifier: Apache-2.0
"""Megatron-core on any machine: without a GPU, and without Transformer Engine or apex.

Megatron-core 0.16.1 writes ``"cuda"`` and ``torch.cuda`` into its modules. On a machine without CUDA its modules get a
private view of ``torch`` that sends those to the CPU; the global ``torch`` is never changed, and nothing is replaced
when CUDA is there. Two further functions (gradient norm and clipping) are replaced on every machine, because their
fallbacks without Transformer Engine or apex refuse CPU tensors and copy to the host once per parameter on a GPU.

Call :func:`prepare` once before Megatron-core is used.
"""

import contextlib
import importlib
import logging
import queue
import sys
import types

import torch

from cosmos1.parallel.device import is_cuda

# Megatron-core imports these late; the view can only be put into modules that are loaded.
_LATE_MODULES = (
    "dist_checkpointing.strategies.torch",
    "dist_checkpointing.strategies.common",
    "dist_checkpointing.strategies.filesystem_async",
    "dist_checkpointing.strategies.async_utils",
    "dist_checkpointing.strategies.state_dict_saver",
    "dist_checkpointing.strategies.fully_parallel",
    "dist_checkpointing.validation",
    "distributed.finalize_model_grads",
    "distributed.distributed_data_parallel",
    "optimizer",
    "optimizer.distrib_optimizer",
    "pipeline_parallel.schedules",
    "pipeline_parallel.p2p_communication",
    "rerun_state_machine",
    "tensor_parallel.random",
    "transformer.transformer_block",
    "transformer.attention",
    "timers",
)
_FACTORIES = (
    "tensor",
    "zeros",
    "ones",
    "empty",
    "full",
    "arange",
    "rand",
    "randn",
    "empty_like",
    "zeros_like",
    "ones_like",
)


class _TorchView(types.ModuleType):
    """Forwards every name to the real module except those given."""

    def __init__(self, real: types.ModuleType, **replaced):
        super().__init__(f"{real.__name__} (CPU view)")
        self.__dict__.update(replaced, _real=real)

    def __getattr__(self, name):
        return getattr(self._real, name)


def _on_cpu(factory):
    def make(*args, device=None, **kwargs):
        if isinstance(device, int) or str(device).startswith("cuda"):
            device = torch.device("cpu")
        return factory(*args, device=device, **kwargs)

    return make


class _Inert:
    """Stands for a CUDA stream or event: every method does nothing, and it is a context manager."""

    def __init__(self, *args, **kwargs):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return False

    def __getattr__(self, name):
        return lambda *args, **kwargs: self


def _cpu_view() -> _TorchView:
    cuda = _TorchView(
        torch.cuda,
        current_device=lambda: torch.device("cpu"),
        synchronize=lambda *args: None,
        empty_cache=lambda: None,
        Stream=_Inert,
        Event=_Inert,
        current_stream=lambda *args: _Inert(),
        default_stream=lambda *args: _Inert(),
        stream=lambda *args: _Inert(),
        get_rng_state=lambda *args: torch.get_rng_state(),
        set_rng_state=lambda state, *args: torch.set_rng_state(state),
        manual_seed=torch.manual_seed,
    )
    return _TorchView(torch, cuda=cuda, **{name: _on_cpu(getattr(torch, name)) for name in _FACTORIES})


def _send_to_cpu() -> None:
    from megatron.core.tensor_parallel import random

    view = _cpu_view()
    for name, module in list(sys.modules.items()):
        if name.startswith("megatron.core") and vars(module).get("torch") is torch:
            module.torch = view
    random._get_cuda_rng_state = lambda *args, **kwargs: torch.get_rng_state()
    random._set_cuda_rng_state = lambda state, *args, **kwargs: torch.set_rng_state(state)
    # Printed at each fork of the tracker; on a CPU the "change" it warns of is the purpose.
    logging.getLogger(random.__name__).addFilter(lambda record: "CPU RNG state changed" not in record.getMessage())


@torch.no_grad()
def clip_gradients(parameters, max_norm: float, total_norm: float, use_decoupled_grad: bool = False) -> None:
    """Scale gradients in place by ``max_norm / total_norm`` where that is below one, in one fused call."""
    from megatron.core.utils import to_local_if_dtensor

    name = "decoupled_grad" if use_decoupled_grad else "grad"
    gradients = [to_local_if_dtensor(g) for p in parameters if (g := getattr(p, name, None)) is not None]
    coefficient = max_norm / (total_norm + 1.0e-6)
    if coefficient < 1.0 and gradients:
        torch._foreach_mul_(gradients, coefficient)


def _global_norm(overflow_buffer, tensor_lists, *args):
    norms = torch._foreach_norm(tensor_lists[0], 2.0, dtype=torch.float32)
    return torch.stack(norms).norm().reshape(1), None


def _replace_clipping() -> None:
    from megatron.core.optimizer import clip_grads, optimizer

    optimizer.clip_grad_by_total_norm_fp32 = clip_grads.clip_grad_by_total_norm_fp32 = clip_gradients
    clip_grads.multi_tensor_applier = lambda operation, buffer, lists, *args: operation(buffer, lists, *args)
    clip_grads.l2_norm_impl = _global_norm


def prepare() -> None:
    """Load Megatron-core and make it usable on this machine. Calling it again does nothing new."""
    for name in _LATE_MODULES:
        importlib.import_module(f"megatron.core.{name}")
    if not is_cuda():
        _send_to_cpu()
    _replace_clipping()


@contextlib.contextmanager
def optimizer_construction():
    """Let Megatron-core build its optimizer from torch's AdamW, on any machine.

    Where Transformer Engine or apex is installed it would take their Adam, which keeps its step count elsewhere than
    our checkpoints look for it. And it sorts parameters by ``Tensor.type()``, accepting CUDA names only.
    """
    from megatron.core import optimizer

    optimizer.Adam, optimizer.USING_PYTORCH_OPTIMIZER = torch.optim.AdamW, True
    if is_cuda():
        yield
        return
    plain_type = torch._C.TensorBase.type

    def cuda_type(self, dtype=None, *args, **kwargs):
        if dtype is None:
            return plain_type(self).replace("torch.", "torch.cuda.", 1)
        return plain_type(self, dtype, *args, **kwargs)

    torch.Tensor.type, torch.Tensor.cuda = cuda_type, lambda self, *args, **kwargs: self
    try:
        yield
    finally:
        del torch.Tensor.type, torch.Tensor.cuda


def write_results_in_process() -> None:
    """Let a synchronous checkpoint save return its results without a helper process (saves 1.2 s and a hang)."""
    from megatron.core.dist_checkpointing.strategies import filesystem_async

    filesystem_async._results_queue = queue.SimpleQueue()
