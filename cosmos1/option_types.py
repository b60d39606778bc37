# SPDX-License-Identifier: Apache-2.0
"""Numbers that a command line takes: argparse shows the message with the name of the option."""

import argparse
import math
from collections.abc import Callable


def count_from(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is no count; use {least} or more")
        return int(text)

    return parse


def number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is no number that can be used")
    return value


def positive_number(text: str) -> float:
    value = number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is too small; use a number above 0")
    return value
