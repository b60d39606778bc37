# SPDX-License-Identifier: Apache-2.0
"""Every preparation program can say what it does."""

from importlib import import_module
from pathlib import Path

import pytest

import data_prep

PROGRAMS = sorted(path.stem for path in Path(data_prep.__path__[0]).glob("*.py"))


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_is_printed(program):
    # argparse reads a bare per cent sign in a help text as a format, and fails when the help is asked for.
    assert "--help" in import_module(f"data_prep.{program}").build_parser().format_help()
