# SPDX-License-Identifier: Apache-2.0
"""What every executor can do, and how their programs are called."""

import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
from collections import Counter
from typing import Any, Callable, Dict, List, Optional

from cosmos1.errors import ConfigError
from cosmos1.launch.jobs import UNKNOWN, Job, JobLost, JobState, Record

ANSWER_S = 60
"""Seconds after which a cluster's client program counts as hanging."""
PAUSE_S = 5.0
"""Between two calls of a client program that has no more to show of a job that goes on."""


class Executor:
    """Base of the executors: each turns a job into texts, and the texts into running jobs."""

    supports_chain = False
    supports_retries = False
    asks_client = True
    """Whether status, logs and cancel call what ``require`` looks for."""

    def check(self, job: Job) -> None:
        """Refuse what this executor cannot do, before anything is written."""
        name = type(self).__name__.lower()
        if (job.chain > 1 or job.dependency) and not self.supports_chain:
            raise ConfigError(
                f"--chain and --dependency need a queue that knows them; --executor {name} has none, slurm has"
            )
        if job.retries and not self.supports_retries:
            raise ConfigError(f"--retries has no effect with --executor {name}; leave it away")

    def require(self, profile: Dict[str, Any]) -> None:
        """Refuse within 5 seconds when a program, an account or a service is missing; says what to install or do."""
        raise NotImplementedError

    def texts(self, job: Job) -> Dict[str, str]:
        """Every file and command of this job by its title, exactly as they will be used."""
        raise NotImplementedError

    def submit(self, job: Job) -> List[str]:
        """Start the job; returns the names under which the executor knows it."""
        raise NotImplementedError

    def states(self, record: Record) -> List[JobState]:
        raise NotImplementedError

    def is_over(self, record: Record) -> bool:
        """Whether there is nothing to wait for: each job has ended, or is not known any more."""
        return all(state.finished or state.state == UNKNOWN for state in self.states(record))

    def logs(self, record: Record, follow: bool) -> None:
        """Print what the job wrote; with ``follow`` until it ends."""
        raise NotImplementedError

    def cancel(self, record: Record) -> None:
        """SIGTERM, so that the run saves and stops, then the end."""
        raise NotImplementedError


def require_program(name: str, remedy: str) -> None:
    if shutil.which(name) is None:
        raise ConfigError(f"{name} is not installed or not in PATH; {remedy}")


def require_reachable(url: str) -> None:
    address = urllib.parse.urlsplit(url)
    try:
        socket.create_connection((address.hostname, address.port or 443), timeout=4).close()
    except OSError as error:
        raise ConfigError(
            f"{url} cannot be reached from here: {error}; check the network, the proxy and the address"
        ) from error


def call(command: List[str], doing: str, stdin: str = "") -> str:
    """The output of a client program; its failure becomes a ConfigError with its last lines."""
    return call_bytes(command, doing, stdin).decode(errors="replace")


def call_bytes(command: List[str], doing: str, stdin: str = "") -> bytes:
    try:
        done = subprocess.run(command, input=stdin.encode(), capture_output=True, timeout=ANSWER_S)
    except subprocess.TimeoutExpired as error:
        raise ConfigError(
            f"{doing}: {command[0]} has not answered for {ANSWER_S} s; is the service reachable?"
        ) from error
    if done.returncode:
        reason = " ".join((done.stderr or done.stdout).decode(errors="replace").split())[-500:]
        raise ConfigError(f"{doing}: {command[0]} ended with status {done.returncode}: {reason}")
    return done.stdout


def ask(command: List[str], doing: str, not_known: str) -> Optional[str]:
    """The same; None when the program fails with the words by which it says that there is no such job."""
    try:
        return call(command, doing)
    except ConfigError as error:
        if not_known in str(error).lower():
            return None
        raise


def show(command: List[str]) -> int:
    """Let a client program print to this terminal."""
    sys.stdout.flush()
    return subprocess.run(command).returncode


def show_logs(command: List[str], record: Record) -> None:
    if show(command):
        raise JobLost(f"{command[0]} has no log of {record.jobs[0]}; the lines above say why")


def follow_logs(command: List[str], is_over: Callable[[], bool]) -> None:
    """Print what a client program shows of a job, and call it again until the job is over.

    It ends by itself where nothing runs yet, and between two attempts. Lines of an earlier call are not printed again.
    """
    printed: Counter = Counter()
    is_last = False
    while True:
        found: Counter = Counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as client:
            for line in client.stdout:
                found[line] += 1
                if found[line] > printed[line]:
                    sys.stdout.write(line.decode(errors="replace"))
                    sys.stdout.flush()
        if is_last:
            return
        printed |= found
        is_last = is_over()
        if not is_last:
            time.sleep(PAUSE_S)


def yaml_text(value: Any) -> str:
    """YAML in which scripts stay readable blocks."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    return yaml.dump(value, Dumper=Dumper, sort_keys=False, width=1000)
