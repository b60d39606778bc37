# SPDX-License-Identifier: Apache-2.0
"""``python -m cosmos1.doctor``: what is here, what will not work and why, and what to type. Status 0: training can run; 1: not."""

import argparse
import sys
from pathlib import Path

from cosmos1.doctor import hardware, software, surroundings


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m cosmos1.doctor", description=__doc__)
    parser.add_argument("--log_dir", type=Path, default=Path("nemo_experiments"), help="where runs will be kept")
    parser.add_argument("--network", action="store_true", help="also try to reach Hugging Face (at most 3 s)")
    options = parser.parse_args(arguments)
    groups = {
        "software": software.check(),
        "hardware": hardware.check(),
        "surroundings": surroundings.check(options.log_dir, options.network),
    }
    findings = []
    for title, checks in groups.items():
        print(f"\n{title}")
        for finding in checks:
            findings.append(finding)
            print(f"  {finding.line()}".replace("\n", "\n  "), flush=True)
    problems = [finding for finding in findings if finding.level == "problem"]
    notes = [finding for finding in findings if finding.level == "note"]
    if problems:
        print(f"\ntraining cannot run: {', '.join(finding.subject for finding in problems)}")
        return 1
    limits = f"; see the notes on {', '.join(finding.subject for finding in notes)}" if notes else ""
    print(f"\ntraining can run{limits}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
