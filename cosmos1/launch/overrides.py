# SPDX-License-Identifier: Apache-2.0
"""Settings typed on the command line, applied to a recipe: `trainer.max_steps=7`.

NeMo-Run defines the syntax. Here each setting is applied alone, so that a mistake can name the one setting that is
wrong, the parameter it was meant for, and the value that parameter takes. Plain values (numbers, text, lists of them)
are parsed by the annotation of the parameter and nothing else: NeMo-Run alone would first try `name=train` as a
function of the script, and `path=weights.pt` as a module to import.
"""

import copy
import dataclasses
import difflib
import inspect
import math
import re
import sys
import types
import typing
from pathlib import Path
from typing import Any, Dict, Iterator, List, Literal, Tuple, Union

import catalogue
import fiddle as fdl
from nemo_run import Config
from nemo_run.cli.api import DEFAULT_NAME
from nemo_run.cli.cli_parser import CLIException, Operation, PythonicParser, parse_cli_args, parse_value
from nemo_run.config import get_type_namespace

from cosmos1.errors import ConfigError, suggestion

STEP = r"[A-Za-z_]\w*(?:\[\w*\])*"
OVERRIDE = re.compile(rf"({STEP}(?:\.{STEP})*)\s*([-+*/|&]?=)\s*(.*)", re.DOTALL)
TYPE_WORDS = {int: "an integer", float: "a number", bool: "true or false", str: "text", Path: "a path"}


def apply_override(recipe: fdl.Buildable, override: str) -> None:
    """Change `recipe` in place as one setting says: `key=value`, or `+=`, `-=`, `*=`, `/=` on an existing value.

    Raises ConfigError with the setting, what is allowed there, and the closest valid name.
    """
    match = OVERRIDE.fullmatch(override)
    if match is None:
        raise ConfigError(f'"{override}" is no option and no setting; write name=value, as in trainer.max_steps=7')
    key, operation, text = match.groups()
    given = f"(given: {override})"
    if not text:
        raise ConfigError(f"no value after {key}{operation}; write {key}='' for an empty text {given}")
    parent, name = _find(recipe, key, given)
    annotation = _annotation(parent, name)
    try:
        if not _is_plain(annotation):
            return _set_object(parent, name, operation, text)
        value = parse_value(text, annotation)
        if operation != "=":
            value = _combined(_old_value(parent, name), operation, value, annotation)
        _check_finite(value)
        setattr(parent, name, value)
    except ConfigError as error:
        raise ConfigError(f"{key} {error} {given}") from error
    except (CLIException, TypeError, ValueError, AttributeError, LookupError) as error:
        raise ConfigError(f"{key} {_needs(annotation, text, error)} {given}") from error


def walk(value: Any, path: str = "") -> Iterator[Tuple[str, fdl.Buildable]]:
    """Every configured object of a recipe with its dotted path; the recipe itself comes first, with path ""."""
    if isinstance(value, fdl.Buildable):
        yield path, value
        for name, child in fdl.ordered_arguments(value).items():
            yield from walk(child, f"{path}.{name}".lstrip("."))
    elif isinstance(value, (list, tuple)):
        for index, child in enumerate(value):
            yield from walk(child, f"{path}[{index}]")


def _old_value(parent: fdl.Buildable, name: str) -> Any:
    """A copy of what an operation starts from: ``+=`` works in place, and a list may be the default of every recipe."""
    old = copy.copy(_child(parent, name))
    if old is None:
        raise ConfigError("has no value yet; write = instead")
    return old


def _combined(old: Any, operation: str, new: Any, annotation: Any) -> Any:
    """What an operation makes of a plain value; a division leaves an integer setting an integer."""
    refusal = f"is {old!r}, which {operation}{new!r} cannot change"
    try:
        value = PythonicParser().apply_operation(Operation(operation), old, new)
    except CLIException as error:
        raise ConfigError(f"{refusal}; write = and the whole value") from error
    members = typing.get_args(annotation) or (annotation,)
    if isinstance(value, float) and int in members and float not in members:
        if not value.is_integer():
            raise ConfigError(f"{refusal}: it needs an integer, and that would be {value}")
        return int(value)
    return value


def _check_finite(value: Any) -> None:
    """What is no number passes every comparison in a setting's own check, and shows as losses that are none."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
    if any(isinstance(item, float) and not math.isfinite(item) for item in items):
        raise ConfigError(f"would be {value}; numbers must be finite")


def _set_object(parent: fdl.Buildable, name: str, operation: str, text: str) -> None:
    """Let NeMo-Run read what is no plain value. It takes a word that names no object for a text."""
    old = _child(parent, name)
    if operation != "=":
        setattr(parent, name, _old_value(parent, name))
    parse_cli_args(parent, [f"{name}{operation}{text}"])
    if isinstance(old, fdl.Buildable) and isinstance(getattr(parent, name), (str, int, float, list, dict)):
        setattr(parent, name, old)
        of_script = [word for word, value in vars(sys.modules["__main__"]).items() if _makes_config(value)]
        raise ConfigError(f'cannot be set to "{text}", which is no object{suggestion(text, of_script)}')


def _makes_config(value: Any) -> bool:
    return inspect.isfunction(value) and typing.get_origin(value.__annotations__.get("return")) is Config


def factory_names(*targets: Any) -> List[str]:
    """Names of the factories that are registered for functions or classes."""
    found = {path[-1] for target in targets for path in catalogue._get_all([get_type_namespace(target)])}
    return sorted(found - {DEFAULT_NAME})


def _find(recipe: fdl.Buildable, key: str, given: str) -> Tuple[fdl.Buildable, str]:
    """The object that a dotted key sets a parameter of, and the name of that parameter."""
    parent, path = recipe, ""
    *steps, name = key.split(".")
    for step in steps:
        attribute, *indices = re.findall(r"\w+", step)
        _check_name(recipe, parent, attribute, path, given)
        annotation = _annotation(parent, attribute)
        parent, path = _child(parent, attribute), f"{path}.{attribute}".lstrip(".")
        for index in indices:
            if not isinstance(parent, (list, tuple)) or not index.isdigit() or int(index) >= len(parent):
                length = f"has {len(parent)} items" if isinstance(parent, (list, tuple)) else "is not a list"
                raise ConfigError(f"no item [{index}] in {path}, which {length} {given}")
            parent, path = parent[int(index)], f"{path}[{index}]"
        if not isinstance(parent, fdl.Buildable):
            names = _factories(annotation)
            remedy = f"put {path}={names[0]} before it" if names else f"give {path} as a whole"
            raise ConfigError(f"{path} is {parent!r}, so nothing inside it can be set; {remedy} {given}")
    if "[" in name:
        raise ConfigError(f"one item of a list cannot be replaced; write {name.split('[')[0]}=[...] {given}")
    _check_name(recipe, parent, name, path, given)
    return parent, name


def _check_name(recipe: fdl.Buildable, parent: fdl.Buildable, name: str, path: str, given: str) -> None:
    parameters = inspect.signature(parent.__fn_or_cls__).parameters
    if name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    # The right name in the wrong place (lr instead of optim.config.lr) is as common as the wrong name.
    elsewhere = [f"{place}.{name}".lstrip(".") for place, config in walk(recipe) if name in dir(config)]
    hint = f"; did you mean {' or '.join(elsewhere[:3])}?" if elsewhere else suggestion(name, list(parameters))
    raise ConfigError(f'no parameter "{name}" in {path or "the recipe"}{hint} {given}')


def _child(parent: fdl.Buildable, name: str) -> Any:
    """The value of a parameter; a dataclass that the recipe left at its default becomes configurable."""
    target = parent.__fn_or_cls__
    if name not in fdl.ordered_arguments(parent) and dataclasses.is_dataclass(target):
        factory = target.__dataclass_fields__[name].default_factory
        if dataclasses.is_dataclass(factory):
            setattr(parent, name, Config(factory))
        elif factory is not dataclasses.MISSING:
            return factory()
    return getattr(parent, name, None)


def _annotation(parent: fdl.Buildable, name: str) -> Any:
    target = parent.__fn_or_cls__
    owner = target.__init__ if inspect.isclass(target) and not dataclasses.is_dataclass(target) else target
    try:
        annotation = typing.get_type_hints(owner).get(name, Any)
    except (NameError, TypeError):
        annotation = inspect.signature(target).parameters[name].annotation
    return _normalized(annotation)


def _factories(annotation: Any) -> List[str]:
    """What can be typed for a parameter that takes an object of a class."""
    return factory_names(*(cls for cls in (annotation, *typing.get_args(annotation)) if dataclasses.is_dataclass(cls)))


def _normalized(annotation: Any) -> Any:
    """Write `X | Y` as Union[X, Y], which NeMo-Run's parser reads, with text last because text accepts everything."""
    if typing.get_origin(annotation) in (Union, types.UnionType):
        members = sorted(typing.get_args(annotation), key=lambda member: member in (str, Path))
        return Union[tuple(_normalized(member) for member in members)]
    return annotation


def _is_plain(annotation: Any) -> bool:
    origin, members = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, list, List, dict, Dict):
        return bool(members) and all(_is_plain(member) for member in members if member is not type(None))
    return annotation in TYPE_WORDS or origin is Literal


def _needs(annotation: Any, text: str, error: Exception) -> str:
    """What a parameter takes, and what it was given."""
    if not _is_plain(annotation):
        cause = error.__cause__ or error
        reason = str(getattr(cause, "reason", cause)).splitlines()[0].split(" (Argument:")[0]
        if names := _factories(annotation):
            return f'cannot be set to "{text}"{suggestion(text, names)}'
        return f'cannot be set to "{text}": {reason}'
    choices = [str(choice) for choice in _literal_choices(annotation)]
    close = difflib.get_close_matches(text, choices, n=1)
    hint = f'; did you mean "{close[0]}"?' if close else ""
    return f'needs {_describe(annotation)}, got "{text}"{hint}'


def _literal_choices(annotation: Any) -> List[Any]:
    if typing.get_origin(annotation) is Literal:
        return list(typing.get_args(annotation))
    return [choice for member in typing.get_args(annotation) for choice in _literal_choices(member)]


def _describe(annotation: Any) -> str:
    origin, members = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is type(None):
        return "None"
    if origin is Union:
        return " or ".join(_describe(member) for member in members)
    if origin is Literal:
        return "one of " + ", ".join(str(choice) for choice in members)
    if origin is list:
        example = {int: "[1,2]", float: "[0.5,1]", str: "['a','b']"}.get(members[0], "[...]")
        return f"a list such as {example}, each item {_describe(members[0])}"
    if origin is dict:
        return f"a dictionary such as {{'name': value}}, each value {_describe(members[1])}"
    return TYPE_WORDS[annotation]
