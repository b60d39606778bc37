# SPDX-License-Identifier: Apache-2.0
"""What the plain values of every network must satisfy, whatever its family."""

from cosmos1.conditioning.settings import signals
from cosmos1.errors import ConfigError


def check_network(config) -> None:
    """Check a ``DiTConfig`` or ``GPTConfig``.

    Raises:
        ConfigError: heads that no position can turn, impossible recomputation, or bad control signals.
    """
    if config.head_dim % 2 or config.head_dim < 12:
        raise ConfigError(
            f"model.config has heads of width {config.head_dim}; 3-D rotary positions need an even width of 12 or more"
        )
    if config.recompute_num_layers is not None and config.recompute_num_layers < 0:
        raise ConfigError(
            f"model.config.recompute_num_layers={config.recompute_num_layers}; use 0 or more, or None for all"
        )
    for settings in signals(config):
        settings.validate()
