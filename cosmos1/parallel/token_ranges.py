# SPDX-License-Identifier: Apache-2.0
"""Which tokens a rank holds: context parallelism cuts a sample, sequence parallelism cuts that part again."""

from cosmos1.errors import ConfigError


def token_ranges(
    num_tokens: int, tp_group, cp_group, sequence_parallel: bool
) -> tuple[tuple[int, int], tuple[int, int]]:
    """``(start, stop)`` of the tokens of this context-parallel rank, and of those of them that this rank holds.

    Raises:
        ConfigError: the tokens cannot be divided evenly.
    """
    cp_size = cp_group.size()
    tp_size = tp_group.size() if sequence_parallel else 1
    if num_tokens % (cp_size * tp_size):
        raise ConfigError(
            f"a sample has {num_tokens} tokens, which do not divide by context_parallel_size={cp_size} x "
            f"tensor_model_parallel_size={tp_size} (sequence_parallel); choose sizes whose product divides it"
        )
    cp_tokens = num_tokens // cp_size
    cp_start = cp_group.rank() * cp_tokens
    start = cp_start + (tp_group.rank() * cp_tokens // tp_size if tp_size > 1 else 0)
    return (cp_start, cp_start + cp_tokens), (start, start + cp_tokens // tp_size)
