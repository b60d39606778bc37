# SPDX-License-Identifier: Apache-2.0
"""Which network a set of weights belongs to, and what it should hold."""

import dataclasses
import typing

from cosmos1.checkpoint.families import ALL
from cosmos1.checkpoint.families.family import Family, Shapes
from cosmos1.checkpoint.layouts import count_layers, identify
from cosmos1.checkpoint.lazy import LazyTensor

# Weights that files may lack; a network keeps its initial values.
ALWAYS_OPTIONAL = tuple(prefix for family in ALL for prefix in family.optional)


def family_of(config) -> Family:
    """The family that a network's sizes belong to."""
    return next(family for family in ALL if isinstance(config, family.config_class))


def expected_shapes(config) -> Shapes:
    """Shape of every tensor of the network, by our names."""
    return family_of(config).expected_shapes(config)


def describe(config) -> str:
    return family_of(config).describe(config)


def infer_config(tensors: dict[str, LazyTensor]):
    """The network whose weights these are, from their names and shapes. What leaves no trace in the weights is that of
    the published size of the same width and depth, and otherwise of the smallest one.

    Raises:
        CheckpointError: a tensor that decides is missing, or the input is that of no known network.
    """
    family, _ = identify(tensors)
    return family.infer_config(tensors, count_layers(tensors, family))


def recorded_config(names, recorded: dict):
    """The network of the weights with these names, from its recorded settings."""
    return config_from_record(identify(names)[0].config_class, recorded)


def config_from_record(cls: type, recorded: dict):
    """A dataclass from the mapping that a recipe records of it, and so the dataclasses in its fields."""
    types = typing.get_type_hints(cls)
    return cls(**{name: _value_from(types.get(name), value) for name, value in recorded.items() if name != "_target_"})


def _value_from(annotation, value):
    nested = [cls for cls in (annotation, *typing.get_args(annotation)) if dataclasses.is_dataclass(cls)]
    return config_from_record(nested[0], value) if nested and isinstance(value, dict) else value


def differences(shapes: Shapes, config) -> list[str]:
    """What is missing, unexpected, or of another shape, one line each; empty if the weights fit the network."""
    expected = expected_shapes(config)
    lines = [f"missing {name}" for name in expected if name not in shapes and not name.startswith(ALWAYS_OPTIONAL)]
    lines += [f"unexpected {name}" for name in shapes if name not in expected]
    for name, shape in expected.items():
        if name in shapes and tuple(shapes[name]) != shape:
            lines.append(f"{name} has shape {list(shapes[name])}, this network needs {list(shape)}")
    return lines
