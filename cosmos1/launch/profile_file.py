# SPDX-License-Identifier: Apache-2.0
"""Profiles from a TOML or YAML file: a table per profile, its keys the fields of cosmos1.launch.profiles.

    [cluster]                       # --profile cluster
    executor = "slurm"
    account = "robotics"
    nodes = 8
    gpus_per_node = 8

An unknown key, or a value of another type, is refused.
"""

import dataclasses
import os
import typing
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Union

from cosmos1.errors import ConfigError, suggestion
from cosmos1.launch.profiles import PROFILES, Profile

DEFAULT_FILE = "~/.config/cosmos1/profiles.toml"
TYPE_WORDS = {int: "an integer", str: "text", bool: "true or false", list: "a list of texts", dict: "a table of texts"}


def choose_profile(
    executor: Optional[str], name: Optional[str], file: Optional[str], changes: List[str]
) -> typing.Tuple[str, Profile]:
    """The executor's name and its profile.

    Args:
        executor: given with --executor; may be None when the profile names it.
        name: table of the profile file; None: the defaults of the executor.
        file: TOML or YAML file; None: ``~/.config/cosmos1/profiles.toml``, or .yaml beside it.
        changes: ``key=value`` settings that replace those of the profile.

    Raises:
        ConfigError: a missing file or table, an unknown key, a value of another type, or settings that disagree.
    """
    if file is not None and name is None:
        raise ConfigError(f"--profile-file {file} without --profile NAME; there is: {', '.join(read_profiles(file))}")
    table = _table(name, file) if name is not None else {}
    where = f"profile {name}" if name is not None else "--set"
    named = table.pop("executor", executor)
    if named is None:
        raise ConfigError(f"no executor; give --executor, one of {', '.join(PROFILES)}, or executor = ... in a profile")
    if named not in PROFILES:
        raise ConfigError(f'executor "{named}" in {where}{suggestion(str(named), list(PROFILES))}')
    if executor not in (None, named):
        raise ConfigError(f"--executor {executor} with {where}, which is for {named}; leave --executor away")
    profile_class = PROFILES[named]
    hints = typing.get_type_hints(profile_class)
    types = {field.name: hints[field.name] for field in dataclasses.fields(profile_class)}
    for key in table.keys() & {key for key, annotation in types.items() if annotation == Dict[str, str]}:
        table[key] = _table(name, file, _load_texts)[key]
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise ConfigError(f'--set "{change}" is no setting; write --set nodes=2')
        table[key] = _parse(text, types.get(key, str))
    profile = profile_class(**{key: _checked(key, value, types, where) for key, value in table.items()})
    profile.validate()
    return named, profile


def read_profiles(file: str, load_yaml: Optional[Callable[[str], Any]] = None) -> Dict[str, Dict[str, Any]]:
    """The tables of a profile file by name; ``load_yaml`` reads it in place of yaml.safe_load if it is no TOML."""
    path = Path(file).expanduser()
    if not path.is_file():
        raise ConfigError(f"no profile file {path}; docs/launching.md shows one, --profile-file names another")
    try:
        tables = _load(path, load_yaml)
    except ValueError as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise ConfigError(f"{path} must hold one table per profile, as [cluster] and its keys below")
    return tables


def _load(path: Path, load_yaml: Optional[Callable[[str], Any]]) -> Any:
    if path.suffix == ".toml":
        try:
            import tomllib
        except ImportError as error:
            raise ConfigError(f"{path}: TOML needs Python 3.11; write the same keys in a .yaml file") from error
        return tomllib.loads(path.read_text())
    import yaml

    try:
        return (load_yaml or yaml.safe_load)(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def _load_texts(text: str) -> Any:
    """YAML in which values stay as they were typed: an environment's 0123 is not 83, nor its 10:30 a number of minutes."""
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers = {
            first: [(tag, pattern) for tag, pattern in rules if tag.endswith((":null", ":merge"))]
            for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    return yaml.load(text, Loader)


def _table(name: str, file: Optional[str], load_yaml: Optional[Callable[[str], Any]] = None) -> Dict[str, Any]:
    if file is None:
        yaml_file = DEFAULT_FILE.replace(".toml", ".yaml")
        file = yaml_file if os.path.exists(os.path.expanduser(yaml_file)) else DEFAULT_FILE
    tables = read_profiles(file, load_yaml)
    if name not in tables:
        raise ConfigError(f'no profile "{name}" in {file}{suggestion(name, list(tables))}')
    return dict(tables[name])


def _parse(text: str, annotation: Any) -> Any:
    import yaml

    if _plain_type(annotation) is str:
        return text
    try:
        return _load_texts(text) if annotation == Dict[str, str] else yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _plain_type(annotation: Any) -> type:
    """int for Optional[int], list for List[str]."""
    if typing.get_origin(annotation) is Union:
        annotation = typing.get_args(annotation)[0]
    return typing.get_origin(annotation) or annotation


def _checked(key: str, value: Any, types: Dict[str, Any], where: str) -> Any:
    if key not in types:
        raise ConfigError(f'unknown key "{key}" in {where}{suggestion(key, list(types))}')
    expected = _plain_type(types[key])
    items = typing.get_args(types[key])
    if value is None and type(None) in items:
        return None
    if type(value) is not expected:
        raise ConfigError(f"{key} in {where} needs {TYPE_WORDS[expected]}, got {value!r}")
    if expected is list and items == (str,) and not all(isinstance(item, str) for item in value):
        raise ConfigError(f"{key} in {where} needs {TYPE_WORDS[list]}, got {value!r}")
    if expected is dict and items == (str, str):
        return {name: _text(item, f"{key}.{name} in {where}") for name, item in value.items()}
    return value


def _text(value: Any, path: str) -> str:
    if value is None or isinstance(value, (list, dict)):
        raise ConfigError(f"{path} needs a text, got {'nothing' if value is None else value}; write {{NAME: value}}")
    return str(value).lower() if isinstance(value, bool) else str(value)
