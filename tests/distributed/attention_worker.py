# SPDX-License-Identifier: Apache-2.0
"""One rank of the attention test: its output chunk and input gradients of each mode, saved for comparison.

RANK=0 WORLD_SIZE=2 python -m tests.distributed.attention_worker folder
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from cosmos1.parallel import megatron
from cosmos1.parallel.attention import CP_MODES, context_parallel_attend

TOKENS, BATCH, HEADS, WIDTH = 16, 2, 4, 12


def inputs(dtype=torch.float32) -> list[torch.Tensor]:
    """Queries, keys, values and the gradient of the output: ``[S, b, h, d]``, large enough for a peaked softmax."""
    generator = torch.Generator().manual_seed(0)
    return [2 * torch.randn(TOKENS, BATCH, HEADS, WIDTH, generator=generator).to(dtype) for _ in range(4)]


def main() -> None:
    folder, rank, size = Path(sys.argv[1]), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    megatron.prepare()
    store = dist.FileStore(str(folder / "store"), size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    results = {}
    for mode in CP_MODES:
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            *leaves, grad = (x.chunk(size)[rank].clone() for x in inputs(dtype))
            leaves = [x.requires_grad_() for x in leaves]
            output = context_parallel_attend(*leaves, dist.group.WORLD, mode)
            output.backward(grad)
            results[mode, name] = [output.detach(), *(x.grad for x in leaves)]
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
