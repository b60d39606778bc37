# SPDX-License-Identifier: Apache-2.0
"""Lines about long work, as a log gets them."""

import os
import pty
import subprocess
import sys

import pytest

from cosmos1.progress import Progress


def test_a_line_tells_how_far_how_fast_and_how_long(capsys):
    progress = Progress(3 * 2**29, "GiB", label="a.pt", per_unit=2**30)
    progress.last_shown -= 10  # seconds ago
    progress.advance(2**29)
    progress.advance(2**29)  # too early for another line
    progress.advance(2**29)
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("a.pt: 0.50/1.50 GiB, ") and last.startswith("a.pt: 1.50/1.50 GiB, ")
    assert first.endswith("GiB/s, 0:00 left") and last.endswith(" left")


def test_the_chunks_of_a_long_video_are_counted_one_by_one(capsys):
    progress = Progress(0, "steps")
    for _ in range(2):
        for done in (1, 2, 3):
            progress.reach(done, 3)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == ["3/3 steps"] * 2


def test_other_ranks_say_nothing(capsys):
    Progress(1, "steps", enabled=False).advance()
    Progress(0, "steps").advance(0)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_only_a_terminal_that_can_is_drawn_over(term):
    """Slurm may give a program whose output goes into a file a terminal, too."""
    ours, theirs = pty.openpty()
    program = "from cosmos1.progress import Progress; Progress(1, 'steps').advance()"
    subprocess.run([sys.executable, "-c", program], stdout=theirs, env=os.environ | {"TERM": term}, check=True)
    assert os.read(ours, 1000).startswith(b"\r") is (term == "xterm")
    os.close(ours), os.close(theirs)
