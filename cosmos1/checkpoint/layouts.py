# SPDX-License-Identifier: Apache-2.0
"""Names and shapes of the diffusion weights in the official ``model.pt``, in diffusers, in NeMo, and in our own
checkpoints.

One explicit table serves all directions. All tensors are whole (not split over ranks); NeMo's, which it stacks over the
layers, are one layer each here. Sources: cosmos-predict1, ``diffusion/networks/general_dit.py``; diffusers,
``scripts/convert_cosmos_to_diffusers.py``; NeMo, ``collections/diffusion/models/dit/cosmos_layer_spec.py``.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from cosmos1.checkpoint.lazy import apply
from cosmos1.errors import CheckpointError

# Outside the blocks: official name (without "net."), our name, diffusers name. NeMo: the official name after "module.".
_OUTSIDE = [
    ("x_embedder.proj.1.weight", "x_embedder.weight", "patch_embed.proj.weight"),
    ("extra_pos_embedder.pos_emb_t", "extra_pos_embedder.pos_emb_t", "learnable_pos_embed.pos_emb_t"),
    ("extra_pos_embedder.pos_emb_h", "extra_pos_embedder.pos_emb_h", "learnable_pos_embed.pos_emb_h"),
    ("extra_pos_embedder.pos_emb_w", "extra_pos_embedder.pos_emb_w", "learnable_pos_embed.pos_emb_w"),
    ("t_embedder.1.linear_1.weight", "t_embedder.linear_1.weight", "time_embed.t_embedder.linear_1.weight"),
    ("t_embedder.1.linear_2.weight", "t_embedder.linear_2.weight", "time_embed.t_embedder.linear_2.weight"),
    ("affline_norm.weight", "t_embedder.affline_norm", "time_embed.norm.weight"),
    ("final_layer.linear.weight", "final_layer.linear.weight", "proj_out.weight"),
    ("final_layer.adaLN_modulation.1.weight", "final_layer.adaln.linear_1.weight", "norm_out.linear_1.weight"),
    ("final_layer.adaLN_modulation.2.weight", "final_layer.adaln.linear_2.weight", "norm_out.linear_2.weight"),
    # The uncertainty head of the training loss; diffusers has no place for it.
    ("logvar.0.freqs", "logvar.freqs", None),
    ("logvar.0.phases", "logvar.phases", None),
    ("logvar.1.weight", "logvar.linear.weight", None),
]
# Inside block n, copied as they are: official under blocks.block{n}.blocks., ours under decoder.layers.{n}., diffusers
# under transformer_blocks.{n}. NeMo: our name, except for the modulation.
_INSIDE = [
    ("0.block.attn.to_q.1.weight", "full_self_attention.q_layernorm.weight", "attn1.norm_q.weight"),
    ("0.block.attn.to_k.1.weight", "full_self_attention.k_layernorm.weight", "attn1.norm_k.weight"),
    ("0.block.attn.to_out.0.weight", "full_self_attention.linear_proj.weight", "attn1.to_out.0.weight"),
    ("1.block.attn.to_q.0.weight", "cross_attention.linear_q.weight", "attn2.to_q.weight"),
    ("1.block.attn.to_q.1.weight", "cross_attention.q_layernorm.weight", "attn2.norm_q.weight"),
    ("1.block.attn.to_k.1.weight", "cross_attention.k_layernorm.weight", "attn2.norm_k.weight"),
    ("1.block.attn.to_out.0.weight", "cross_attention.linear_proj.weight", "attn2.to_out.0.weight"),
    ("2.block.layer1.weight", "mlp.linear_fc1.weight", "ff.net.0.proj.weight"),
    ("2.block.layer2.weight", "mlp.linear_fc2.weight", "ff.net.2.weight"),
    ("0.adaLN_modulation.1.weight", "adaln_self_attention.linear_1.weight", "norm1.linear_1.weight"),
    ("0.adaLN_modulation.2.weight", "adaln_self_attention.linear_2.weight", "norm1.linear_2.weight"),
    ("1.adaLN_modulation.1.weight", "adaln_cross_attention.linear_1.weight", "norm2.linear_1.weight"),
    ("1.adaLN_modulation.2.weight", "adaln_cross_attention.linear_2.weight", "norm2.linear_2.weight"),
    ("2.adaLN_modulation.1.weight", "adaln_mlp.linear_1.weight", "norm3.linear_1.weight"),
    ("2.adaLN_modulation.2.weight", "adaln_mlp.linear_2.weight", "norm3.linear_2.weight"),
]
# Inside block n, several matrices interleaved head by head in our layout and in NeMo's.
_FUSED = [
    (
        ("0.block.attn.to_q.0.weight", "0.block.attn.to_k.0.weight", "0.block.attn.to_v.0.weight"),
        "full_self_attention.linear_qkv.weight",
        ("attn1.to_q.weight", "attn1.to_k.weight", "attn1.to_v.weight"),
    ),
    (
        ("1.block.attn.to_k.0.weight", "1.block.attn.to_v.0.weight"),
        "cross_attention.linear_kv.weight",
        ("attn2.to_k.weight", "attn2.to_v.weight"),
    ),
]
# Inside block n, NeMo's modulation of all three sub-blocks at once: rows one above the other, or a block diagonal.
_MODULATION = ("adaln_self_attention", "adaln_cross_attention", "adaln_mlp")
_NEMO_FUSED = [
    ("adaLN.adaLN_modulation.1.weight", "linear_1.weight", "rows"),
    ("adaLN.adaLN_modulation.2.weight", "linear_2.weight", "diagonal"),
]
_PREFIXES = {
    "official": "blocks.block{n}.blocks.",
    "diffusers": "transformer_blocks.{n}.",
    "nemo": "module.decoder.layers.{n}.",
    "native": "decoder.layers.{n}.",
}
_COLUMN = {"official": 0, "diffusers": 2}
_Q_NORM = "full_self_attention.q_layernorm.weight"
# Off-diagonal part of a NeMo modulation matrix, relative to the whole, above which it is no block diagonal any more.
OFF_DIAGONAL_TOLERANCE = 1e-6


@dataclass(frozen=True)
class _Row:
    """Names in another layout and ours, where one of the two sides holds several matrices as one tensor."""

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    grouping: str = "heads"


def _table(layout: str, num_layers: int) -> Iterable[_Row]:
    column = _COLUMN.get(layout, 0)
    for row in _OUTSIDE:
        if row[column] is not None:
            yield _Row(("module." + row[0] if layout == "nemo" else row[column],), (row[1],))
    for n in range(num_layers):
        theirs, ours = _PREFIXES[layout].format(n=n), _PREFIXES["native"].format(n=n)
        if layout == "nemo":
            yield from _nemo_rows(theirs, ours)
            continue
        for row in _INSIDE:
            yield _Row((theirs + row[column],), (ours + row[1],))
        for row in _FUSED:
            yield _Row(tuple(theirs + name for name in row[column]), (ours + row[1],))


def _nemo_rows(theirs: str, ours: str) -> Iterable[_Row]:
    for row in (*_INSIDE, *_FUSED):
        if not row[1].startswith("adaln_"):
            yield _Row((theirs + row[1],), (ours + row[1],))
    for name, part, grouping in _NEMO_FUSED:
        yield _Row((theirs + name,), tuple(f"{ours}{branch}.{part}" for branch in _MODULATION), grouping)


def identify(names: Iterable[str]) -> str:
    """The layout that names belong to: "official", "diffusers", "nemo" or "native".

    Raises:
        CheckpointError: they belong to no diffusion network that is known here.
    """
    names = list(names)
    for layout, prefix in _PREFIXES.items():
        if any(name.startswith(prefix.split("{")[0]) for name in names):
            return layout
    raise CheckpointError(
        f"no weights of a Cosmos diffusion network: {len(names)} tensors, first {sorted(names)[:3]}; expected names "
        "like net.blocks.block0..., transformer_blocks.0..., or decoder.layers.0..."
    )


def count_layers(names: Iterable[str], layout: str) -> int:
    pattern = re.compile("^" + re.escape(_PREFIXES[layout]).replace(re.escape("{n}"), r"(\d+)"))
    return 1 + max((int(match[1]) for name in names if (match := pattern.match(name))), default=-1)


def head_width(state: dict, layout: str) -> int:
    """Width of an attention head: the length of the query norm of block 0."""
    name = next(row.theirs[0] for row in _table(layout, 1) if row.ours[0].endswith(_Q_NORM))
    if name not in state:
        raise CheckpointError(f"{layout} weights: {name} is missing, without which the width of a head is unknown")
    return state[name].shape[0]


def to_native(state: dict, layout: str, num_layers: int, head_dim: int) -> dict:
    """Weights of ``layout`` ("official" without the ``net.`` prefix, "diffusers", or "nemo") under our names.

    The tensors may be lazy; then so are the results.

    Raises:
        CheckpointError: keys that the network has and the file lacks, or the other way round.
    """
    rows = list(_table(layout, num_layers))
    expected = {name for row in rows for name in row.theirs}
    optional = {name for name in expected if "logvar." in name}
    positions = {name for name in expected if "pos_emb" in name}
    if not positions & set(state):  # a network without learnable positions has none of the three
        optional |= positions
    missing, unexpected = expected - optional - set(state), set(state) - expected
    if missing or unexpected:
        raise CheckpointError(
            f"{layout} weights do not fit a DiT of {num_layers} layers: {len(missing)} missing (first: "
            f"{sorted(missing)[:3]}), {len(unexpected)} unexpected (first: {sorted(unexpected)[:3]})"
        )
    result = {}
    for row in rows:
        if row.theirs[0] in state:
            result.update(
                zip(row.ours, _regroup([state[n] for n in row.theirs], len(row.ours), row.grouping, head_dim))
            )
    return result


def from_native(state: dict, layout: str, num_layers: int, head_dim: int) -> dict:
    """The inverse of :func:`to_native`, bit for bit. What ``layout`` has no place for is left out."""
    result = {}
    for row in _table(layout, num_layers):
        if row.ours[0] in state:
            tensors = [state[name] for name in row.ours]
            result.update(zip(row.theirs, _regroup(tensors, len(row.theirs), row.grouping, head_dim)))
    return result


def off_diagonal_share(matrix: torch.Tensor) -> float:
    """Norm outside the three diagonal blocks of a NeMo modulation matrix ``[9 D, 3 r]``, relative to its whole norm."""
    whole = torch.linalg.vector_norm(matrix, dtype=torch.float64).item()
    outside = matrix.clone()
    for block in _diagonal_blocks(outside, 3):
        block.zero_()
    return torch.linalg.vector_norm(outside, dtype=torch.float64).item() / whole if whole else 0.0


def _regroup(tensors: list, num_outputs: int, grouping: str, head_dim: int) -> list:
    if len(tensors) == num_outputs:
        return tensors
    fuse, split = _GROUPINGS[grouping]
    if num_outputs == 1:
        return [apply(lambda *parts: fuse(parts, head_dim), tensors)]
    return [apply(lambda whole, i=i: split(whole, num_outputs, head_dim)[i], tensors) for i in range(num_outputs)]


def _fuse_heads(tensors, head_dim: int) -> torch.Tensor:
    """``k`` matrices ``[heads * d, in]`` to ``[heads * k * d, in]``, head by head."""
    return torch.stack([tensor.unflatten(0, (-1, head_dim)) for tensor in tensors], dim=1).flatten(0, 2)


def _split_heads(tensor: torch.Tensor, count: int, head_dim: int) -> list[torch.Tensor]:
    return [part.flatten(0, 1) for part in tensor.unflatten(0, (-1, count, head_dim)).unbind(1)]


def _diagonal_blocks(matrix: torch.Tensor, count: int, head_dim: int = 0) -> list[torch.Tensor]:
    rows, columns = matrix.shape[0] // count, matrix.shape[1] // count
    return [matrix[i * rows : (i + 1) * rows, i * columns : (i + 1) * columns] for i in range(count)]


_GROUPINGS = {
    "heads": (_fuse_heads, _split_heads),
    "rows": (lambda parts, head_dim: torch.cat(parts), lambda whole, count, head_dim: whole.chunk(count)),
    "diagonal": (lambda parts, head_dim: torch.block_diag(*parts), _diagonal_blocks),
}
