# SPDX-License-Identifier: Apache-2.0
"""What programs that work through many items share: exit codes, work in several processes, and items that cannot be used."""

import argparse
import multiprocessing
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from cosmos1.errors import DataError, UserError
from cosmos1.progress import Progress

Item = TypeVar("Item")
Result = TypeVar("Result")
NAMES_SHOWN = 5


def for_each(work: Callable[[int], None], numbers: Sequence[int], unit: str, num_processes: int = 1) -> None:
    """Call ``work(number)`` for all ``numbers``, in several processes if asked for, and show the progress.

    With several, ``work`` must be picklable: a function of a module, or a partial of one.
    """
    progress = Progress(len(numbers), unit)
    if num_processes <= 1:
        for number in numbers:
            work(number)
            progress.advance()
        return
    context = multiprocessing.get_context("spawn")
    with futures.ProcessPoolExecutor(min(num_processes, len(numbers)), context) as pool:
        try:
            for done in futures.as_completed([pool.submit(work, number) for number in numbers]):
                done.result()
                progress.advance()
        except BrokenProcessPool as error:
            raise DataError(
                f"one of {num_processes} processes was killed, perhaps for want of memory; use fewer --num_processes"
            ) from error
        except BaseException:
            # Without this the error would come out when all the rest is done.
            pool.shutdown(cancel_futures=True)
            raise


def run_command(parser: argparse.ArgumentParser, main: Callable[[argparse.Namespace], None]) -> None:
    """Parse the command line and run `main`; a user's mistake prints one line and exits with status 2."""
    try:
        main(parser.parse_args())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def use_each(
    items: Iterable[Item], use: Callable[[Item], Result], strict: bool = False
) -> tuple[list[Result], list[str]]:
    """Call `use` with each item; return what it returned, and a line per item that cannot be used.

    Such an item raises DataError; with `strict` the first of them is raised here.
    """
    results, failures = [], []
    for item in items:
        try:
            results.append(use(item))
        except DataError as error:
            if strict:
                raise
            failures.append(str(error))
    return results, failures


def first_names(names: Sequence[str]) -> str:
    """The first few of many names, for a message."""
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more if names else "none"
