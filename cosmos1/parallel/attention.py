# SPDX-License-Identifier: Apache-2.0
"""Scaled dot-product attention of one tensor-parallel rank, split over the context-parallel group.

Shapes: ``s`` local tokens (the sequence over CP), ``S`` all tokens, ``b`` batch, ``h`` heads of this TP rank, ``g`` key
and value heads (each serves ``h / g`` neighbouring query heads), ``d`` head width. Every CP rank holds one contiguous
chunk of the tokens. Attention has no mask (a DiT sees every token) or is causal (a GPT sees itself and what is before):

* ``ulysses``: an all-to-all trades tokens for heads, each rank attends over all tokens with ``h / CP`` heads (Jacobs et
  al. 2023, DeepSpeed Ulysses). Least communication; needs ``g`` divisible by CP.
* ``allgather``: every rank gathers K and V. No condition on heads; memory grows with all of K and V. Causal attention
  leaves the later chunks more work than the earlier ones.
* ``ring``: K and V travel round the ring, partial results are merged by their log-sum-exp (Liu et al. 2023). Written
  without a fused kernel: it holds scores ``[s, b, h, s]`` in fp32, which suits short sequences only. Not causal.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right

from cosmos1.parallel.strategy import choose_cp_mode

CP_MODES = ("ulysses", "allgather", "ring")

# cuDNN first: at 56,320 tokens it is 1.7 times faster than torch's flash kernels on an H200.
_GPU_BACKENDS = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


def attend(
    q_sbhd: torch.Tensor,
    k_tbgd: torch.Tensor,
    v_tbgd: torch.Tensor,
    causal: bool = False,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """``softmax(q k^T / sqrt(d)) v``: queries ``[s, b, h, d]``, keys and values ``[t, b, g, d]``.

    ``causal``: the queries are the last ``s`` of the ``t`` tokens, and each sees the tokens up to its own. ``mask``, for
    attention that is not causal: bool, broadcast to ``[b, h, s, t]``, True where a query sees a key.
    """
    q, k, v = (x.permute(1, 2, 0, 3) for x in (q_sbhd, k_tbgd, v_tbgd))
    options = {"enable_gqa": True} if q.shape[1] != k.shape[1] else {}
    if causal and q.shape[2] == k.shape[2]:
        options["is_causal"] = True
    elif causal or mask is not None:
        # Kernels with a mask know grouped heads on none but the slowest.
        options = {"attn_mask": causal_lower_right(q.shape[2], k.shape[2]) if causal else mask}
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    if q.is_cuda and q.dtype != torch.float32:
        with sdpa_kernel(_GPU_BACKENDS, set_priority=True):
            out = F.scaled_dot_product_attention(q, k, v, **options)
    else:
        out = F.scaled_dot_product_attention(q, k, v, **options)
    return out.permute(2, 0, 1, 3)


def _tokens_to_heads(x_sbhd: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """``[s, b, h, d]`` to ``[S, b, h / CP, d]``."""
    from megatron.core.tensor_parallel.mappings import all_to_all

    n, (s, b, h, d) = group.size(), x_sbhd.shape
    by_rank = x_sbhd.reshape(s, b, n, h // n, d).permute(2, 0, 1, 3, 4).reshape(n * s, b, h // n, d)
    return all_to_all(group, by_rank)


def _heads_to_tokens(x_sbhd: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """``[S, b, h / CP, d]`` to ``[s, b, h, d]``; the inverse of :func:`_tokens_to_heads`."""
    from megatron.core.tensor_parallel.mappings import all_to_all

    n, (s, b, h, d) = group.size(), x_sbhd.shape
    by_rank = all_to_all(group, x_sbhd.contiguous()).reshape(n, s // n, b, h, d)
    return by_rank.permute(1, 2, 0, 3, 4).reshape(s // n, b, n * h, d)


class _RingAttention(torch.autograd.Function):
    """K and V chunks visit every rank; the backward pass sends the gradients of K and V along with them."""

    @staticmethod
    def forward(ctx, q, k, v, group):
        scale = q.shape[-1] ** -0.5
        out = torch.zeros_like(q, dtype=torch.float32)
        log_sum = torch.full(q.shape[:-1], -torch.inf, dtype=torch.float32, device=q.device)
        k_visiting, v_visiting = k, v
        for hop in range(group.size()):
            scores = torch.einsum("sbhd,tbhd->sbht", q.float(), k_visiting.float()) * scale
            chunk_log_sum = scores.logsumexp(-1)
            chunk_out = torch.einsum("sbht,tbhd->sbhd", scores.softmax(-1), v_visiting.float())
            merged = torch.logaddexp(log_sum, chunk_log_sum)
            out = out * (log_sum - merged).exp()[..., None] + chunk_out * (chunk_log_sum - merged).exp()[..., None]
            log_sum = merged
            if hop + 1 < group.size():
                k_visiting, v_visiting = _pass_on([k_visiting, v_visiting], group)
        ctx.group = group
        ctx.save_for_backward(q, k, v, out, log_sum)
        return out.to(q.dtype)

    @staticmethod
    def backward(ctx, grad_out):
        q, k, v, out, log_sum = ctx.saved_tensors
        scale, grad_out, queries = q.shape[-1] ** -0.5, grad_out.float(), q.float()
        row_term = (grad_out * out).sum(-1, keepdim=True)
        grad_q = torch.zeros_like(queries)
        travelling = [k.float(), v.float(), torch.zeros_like(queries), torch.zeros_like(queries)]
        for _ in range(ctx.group.size()):
            keys, values, grad_k, grad_v = travelling
            weights = (torch.einsum("sbhd,tbhd->sbht", queries, keys) * scale - log_sum[..., None]).exp()
            grad_scores = weights * (torch.einsum("sbhd,tbhd->sbht", grad_out, values) - row_term) * scale
            grad_q = grad_q + torch.einsum("sbht,tbhd->sbhd", grad_scores, keys)
            grad_k = grad_k + torch.einsum("sbht,sbhd->tbhd", grad_scores, queries)
            grad_v = grad_v + torch.einsum("sbht,sbhd->tbhd", weights, grad_out)
            # After the last hop each gradient is back at the rank that owns its chunk.
            travelling = _pass_on([keys, values, grad_k, grad_v], ctx.group)
        return grad_q.to(q.dtype), travelling[2].to(k.dtype), travelling[3].to(v.dtype), None


def _pass_on(tensors: list[torch.Tensor], group: dist.ProcessGroup) -> list[torch.Tensor]:
    """Send tensors to the next rank of the ring and receive those of the previous one."""
    size, rank = group.size(), group.rank()
    if size == 1:
        return tensors
    following = dist.get_global_rank(group, (rank + 1) % size)
    previous = dist.get_global_rank(group, (rank - 1) % size)
    sent = [tensor.contiguous() for tensor in tensors]
    received = [torch.empty_like(tensor) for tensor in sent]
    operations = [dist.P2POp(dist.isend, tensor, following, group) for tensor in sent]
    operations += [dist.P2POp(dist.irecv, tensor, previous, group) for tensor in received]
    for request in dist.batch_isend_irecv(operations):
        request.wait()
    return received


def context_parallel_attend(q, k, v, group: dist.ProcessGroup | None, mode: str, causal: bool = False) -> torch.Tensor:
    """Self-attention over the tokens of all CP ranks; ``[s, b, h, d]`` in and out. ``mode`` is one of ``CP_MODES``."""
    if group is None or group.size() == 1:
        return attend(q, k, v, causal)
    if mode == "ulysses":
        q, k, v = (_tokens_to_heads(x, group) for x in (q, k, v))
        return _heads_to_tokens(attend(q, k, v, causal), group)
    if mode == "allgather":
        from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region

        k, v = (gather_from_sequence_parallel_region(x.contiguous(), group=group) for x in (k, v))
        if causal:
            num_visible = (group.rank() + 1) * len(q)
            k, v = k[:num_visible], v[:num_visible]
        return attend(q, k, v, causal)
    assert mode == "ring" and not causal, mode
    return _RingAttention.apply(q, k, v, group)


class CoreAttention(torch.nn.Module):
    """The ``core_attention`` submodule of Megatron-core's attention layers: ``[s, b, h, d]`` to ``[s, b, h * d]``.

    ``attn_mask_type`` is Megatron-core's ``AttnMaskType.causal``, or None for attention to everything. Cross-attention
    needs no exchange: queries are local and the context is the same on every CP rank.
    """

    def __init__(self, config, layer_number, attn_mask_type, attention_type, pg_collection, **unused):
        super().__init__()
        self.causal = attn_mask_type is not None and attn_mask_type.name == "causal"
        self.group = pg_collection.cp if attention_type == "self" else None
        groups = config.num_query_groups // pg_collection.tp.size()
        self.mode = choose_cp_mode(config.context_parallel_mode, groups, pg_collection.cp.size())

    def forward(self, query, key, value, mask=None) -> torch.Tensor:
        if mask is not None:
            assert self.group is None
            return attend(query, key, value, mask=mask).flatten(2)
        return context_parallel_attend(query, key, value, self.group, self.mode, self.causal).flatten(2)
