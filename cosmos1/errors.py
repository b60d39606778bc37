# SPDX-License-Identifier: Apache-2.0
"""Mistakes that a user can mend. Each message says what was given, what is allowed, and what to type next.

The command line prints the message alone and exits with status 2; any other exception is a defect of ours and keeps
its traceback.
"""

import difflib
from collections.abc import Iterable
from typing import Any


class UserError(ValueError):
    """A mistake in what the user gave; shown without a traceback."""


class ConfigError(UserError):
    """Two settings disagree, or a value is outside what is allowed."""


class DataError(UserError):
    """A data file or folder is not what it should be: names the file, what was found, what was expected."""


class CheckpointError(UserError):
    """A checkpoint is missing, damaged, or belongs to another model."""


def check_positive(settings: Any, path: str, *names: str) -> None:
    """Raise :class:`ConfigError` for the first of the fields ``names`` that is below 1; ``path`` is where the user sets
    ``settings``, as in ``model.config``."""
    for name in names:
        if getattr(settings, name) < 1:
            raise ConfigError(f"{path}.{name}={getattr(settings, name)}; it must be 1 or more")


def suggestion(word: str, valid: Iterable[str]) -> str:
    """`; did you mean "x"?` for the closest of the valid words, else the list of them."""
    valid = sorted(valid)
    close = difflib.get_close_matches(word, valid, n=3, cutoff=0.6)
    if close:
        return "; did you mean " + " or ".join(f'"{name}"' for name in close) + "?"
    return f"; there is: {', '.join(valid)}" if valid else ""


class DamagedCheckpoint(CheckpointError):
    """Files of a checkpoint are missing or do not match their checksums; nothing of it has been used."""
