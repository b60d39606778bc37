# SPDX-License-Identifier: Apache-2.0
"""torchrun on this machine, in a session of its own, so that it survives the terminal."""

import codecs
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

from cosmos1.errors import ConfigError
from cosmos1.launch.executors.base import Executor, require_program
from cosmos1.launch.jobs import Job, JobLost, JobState, Record, launches_dir, node_script

WATCHER = """
trap : TERM  # the recipe gets the signal too; its exit status must still be noted
bash "$0.sh" >"$0.log" 2>&1 &
while kill -0 $! 2>/dev/null; do wait $!; done
wait $!
echo $? >"$0.exit"
"""


class Local(Executor):
    supports_retries = True
    asks_client = False

    def require(self, profile: Dict[str, Any]) -> None:
        require_program("torchrun", "activate the environment this suite is installed in (. .venv/bin/activate)")

    def texts(self, job: Job) -> Dict[str, str]:
        return {f"{job.id}.sh": node_script(job, [], job.retries)}

    def submit(self, job: Job) -> List[str]:
        launches_dir().mkdir(parents=True, exist_ok=True)
        for name, text in self.texts(job).items():
            (launches_dir() / name).write_text(text)
        stem = launches_dir() / job.id
        stem.with_name(f"{job.id}.log").touch()
        # With the caller's output it would keep a shell that waits for the end of that output, as $(...) does.
        silent = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        watcher = subprocess.Popen(["bash", "-c", WATCHER, str(stem)], start_new_session=True, **silent)
        return [str(watcher.pid)]

    def states(self, record: Record) -> List[JobState]:
        status = _exit_status(record)
        if status is not None:
            return [JobState(record.jobs[0], "succeeded" if status == 0 else "failed", True, status)]
        if _is_running(record):
            return [JobState(record.jobs[0], "running", False)]
        return [JobState(record.jobs[0], "killed", True, 1)]

    def logs(self, record: Record, follow: bool) -> None:
        path = launches_dir() / f"{record.id}.log"
        if not path.exists():
            raise JobLost(f"{path} is gone; what the run itself wrote is below log.log_dir")
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        with open(path, "rb") as log:
            while True:
                finished = self.states(record)[0].finished
                sys.stdout.write(decoder.decode(log.read()))  # a character may be half written by now
                sys.stdout.flush()
                if finished or not follow:
                    return
                time.sleep(0.2)

    def cancel(self, record: Record) -> None:
        if not _is_running(record):
            raise ConfigError(f"{record.id} does not run")
        os.killpg(int(record.jobs[0]), signal.SIGTERM)


def _exit_status(record: Record) -> Optional[int]:
    path = launches_dir() / f"{record.id}.exit"
    text = path.read_text().strip() if path.exists() else ""
    return int(text) if text else None


def _is_running(record: Record) -> bool:
    """Whether the watcher lives; its number may belong to another process by now, which lacks the id in its command.

    For an instant after its start Linux shows no command at all, as it does for one that has ended ("Z").
    """
    process = Path("/proc") / record.jobs[0]
    if not Path("/proc/self").exists():
        command = ["ps", "-o", "args=", "-p", record.jobs[0]]
        return record.id in subprocess.run(command, capture_output=True, text=True).stdout
    try:
        arguments = (process / "cmdline").read_text(errors="replace")
        return record.id in arguments if arguments else ") Z " not in (process / "stat").read_text()
    except OSError:
        return False
