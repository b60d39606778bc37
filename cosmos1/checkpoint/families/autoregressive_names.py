# SPDX-License-Identifier: Apache-2.0
"""Names of the autoregressive weights in the official ``model.pt``, in NeMo, and in our own checkpoints.

Sources: Cosmos, ``autoregressive/nemo/cosmos.py`` and ``cosmos_video2world.py`` (names and order of the fused matrices).
No rotary permutation is needed: all three rotate the two halves of a head.
"""

from collections.abc import Iterable

from cosmos1.checkpoint.families.family import Row

PREFIXES = {
    "official": "layers.{n}.",
    "nemo": "module.decoder.layers.{n}.",
    "native": "decoder.layers.{n}.",
}
# Official name (without "model."), our name. NeMo: our name after "module.".
_OUTSIDE = [
    ("tok_embeddings.weight", "embedding.word_embeddings.weight"),
    ("norm.weight", "decoder.final_layernorm.weight"),
    ("output.weight", "output_layer.weight"),
]
# Inside a layer: official names, our name, how several official matrices make one of ours.
_SELF_ATTENTION = [
    (("attention_norm.weight",), "input_layernorm.weight", ""),
    (
        ("attention.wq.weight", "attention.wk.weight", "attention.wv.weight"),
        "self_attention.linear_qkv.weight",
        "heads",
    ),
    (("attention.q_norm.weight",), "self_attention.q_layernorm.weight", ""),
    (("attention.k_norm.weight",), "self_attention.k_layernorm.weight", ""),
    (("attention.wo.weight",), "self_attention.linear_proj.weight", ""),
]
_CROSS_ATTENTION = [
    (("cross_attention_norm.weight",), "pre_cross_attn_layernorm.weight", ""),
    (("cross_attention.wq.weight",), "cross_attention.linear_q.weight", ""),
    (("cross_attention.wk.weight", "cross_attention.wv.weight"), "cross_attention.linear_kv.weight", "heads"),
    (("cross_attention.q_norm.weight",), "cross_attention.q_layernorm.weight", ""),
    (("cross_attention.k_norm.weight",), "cross_attention.k_layernorm.weight", ""),
    (("cross_attention.wo.weight",), "cross_attention.linear_proj.weight", ""),
]
_MLP = [
    (("ffn_norm.weight",), "pre_mlp_layernorm.weight", ""),
    # The gate comes first.
    (("feed_forward.w1.weight", "feed_forward.w3.weight"), "mlp.linear_fc1.weight", "rows"),
    (("feed_forward.w2.weight",), "mlp.linear_fc2.weight", ""),
]
# Control signals: official names, our names, and the part of the network. NeMo has the layers of the action alone.
_CONTROLS = [
    ("action_mlp.0.weight", "action.linear_1.weight", "action"),
    ("action_mlp.0.bias", "action.linear_1.bias", "action"),
    ("action_mlp.2.weight", "action.linear_2.weight", "action"),
    ("action_mlp.2.bias", "action.linear_2.bias", "action"),
    ("action_index.weight", "action.index.weight", "action.index"),
    ("traj_mlp.0.weight", "trajectory.linear_1.weight", "trajectory"),
    ("traj_mlp.0.bias", "trajectory.linear_1.bias", "trajectory"),
    ("traj_mlp.2.weight", "trajectory.linear_2.weight", "trajectory"),
    ("traj_mlp.2.bias", "trajectory.linear_2.bias", "trajectory"),
    ("traj_index.weight", "trajectory.index.weight", "trajectory"),
    ("cam_proj.weight", "camera.weight", "camera"),
    ("view_embed.weight", "views.weight", "views"),
]
# NeMo keeps the norms before a matrix with it, also where they are modules of their own.
_NEMO_NORMS = {
    "input_layernorm.weight": "self_attention.linear_qkv.layer_norm_weight",
    "pre_mlp_layernorm.weight": "mlp.linear_fc1.layer_norm_weight",
}


def rows(layout: str, num_layers: int) -> Iterable[Row]:
    """The name table of ``layout`` ("official" without ``model.``, or "nemo") for a number of layers."""
    for official, ours in _OUTSIDE:
        yield Row((official if layout == "official" else "module." + ours,), (ours,))
    for official, ours, part in _CONTROLS:
        yield Row((official if layout == "official" else "module." + official,), (ours,), part=part)
    for n in range(num_layers):
        theirs, own = PREFIXES[layout].format(n=n), PREFIXES["native"].format(n=n)
        for part, table in ((None, _SELF_ATTENTION), ("cross_attention", _CROSS_ATTENTION), (None, _MLP)):
            for official, ours, grouping in table:
                names = official if layout == "official" else (_NEMO_NORMS.get(ours, ours),)
                yield Row(tuple(theirs + name for name in names), (own + ours,), grouping, part)
