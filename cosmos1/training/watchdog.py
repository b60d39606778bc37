# SPDX-License-Identifier: Apache-2.0
"""Ends a run that hangs, with the stacks of every rank and the name of the rank that is behind.

A collective that one rank never joins makes all others wait, without an error, for half an hour (the limit of the process
groups) or for ever. So a thread of every rank watches how long the present phase of the loop lasts. Ranks tell each other
where they are through the store in which they met: it answers while collectives do not, and needs no file system.
"""

import faulthandler
import json
import os
import select
import signal
import socket
import statistics
import sys
import threading
import time
from collections import deque
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Callable

import torch.distributed as dist

from cosmos1.training.config import HangDetection

EXIT_STATUS = 75  # EX_TEMPFAIL of sysexits.h: trying again may help

# In the order in which a step passes through them; a rank in an earlier one is behind.
PHASES = ("waiting for data", "computing", "callbacks", "validation", "agreeing to go on", "saving")
PATIENT_PHASES = ("callbacks", "validation", "saving")
_STEPS_BEFORE_JUDGING = 3  # the first ones compile and start data workers
_STEPS_IN_MEDIAN = 50
_BEATS = 3  # a rank that is silent for so many intervals does not answer
_BACKSTOP_S = 60  # after so much more the process ends even if no Python code can run
_HANG_KEY = "hang"


@dataclass
class Heartbeat:
    """What one rank says about itself."""

    count: int
    step: int
    phase: str
    seconds: float
    patient: bool
    """Whether it is allowed ``trainer.hang.patience_s`` for this phase, and still within it."""
    host: str
    process: str

    @property
    def place(self) -> tuple[int, int]:
        return self.step, PHASES.index(self.phase)

    def __str__(self) -> str:
        return f"step {self.step}, {self.phase}"


class Watchdog:
    """Watches the loop of this rank between ``with`` and its end. Made and entered by all ranks.

    When no rank is allowed more patience and a phase lasts longer than the larger of ``hang.floor_s`` and ``hang.factor``
    times the median step, each rank writes ``stacks/rank<r>.txt`` into the run folder, one rank prints who is behind, and
    the process ends with status 75, so that torchrun or Slurm starts it again. A rank that does not answer (stopped, or
    stuck in the kernel) is killed by its neighbours on the same machine: it could not obey the launcher's SIGTERM.

    After a SIGTERM the limit is a tenth: a launcher that lost a rank sends it, and the others wait for that rank in vain.
    """

    def __init__(self, hang: HangDetection, run_folder: Path):
        self.hang = hang
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.folder = run_folder / "stacks"
        self.durations: deque[float] = deque(maxlen=_STEPS_IN_MEDIAN)
        self._position = (0, "callbacks", time.monotonic())
        self._step_started = time.monotonic()
        self._count, self._hurry, self._ended = 0, False, False
        self._process = process_identity(os.getpid())
        self._interval_s = min(5.0, max(0.1, hang.floor_s / 10))
        self._store: dist.Store | None = None

    # ---- the loop's side ----

    def __enter__(self) -> "Watchdog":
        if self.hang.factor:
            self._store = dist.distributed_c10d._get_default_store().clone()
            self._store.set_timeout(timedelta(seconds=10))
            self._wake_read, self._wake_write = os.pipe()
            os.set_blocking(self._wake_write, False)
            # Signals reach the thread even while the main thread sits in a collective and runs no Python.
            self._previous_wakeup = signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
            self._beat()
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *exception) -> None:
        if self._store is None:
            return
        signal.set_wakeup_fd(self._previous_wakeup)
        self._ended = True
        os.write(self._wake_write, b"\0")
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def enter(self, phase: str, step: int) -> None:
        """The loop begins ``phase`` of ``step``. Costs a microsecond."""
        now = time.monotonic()
        if phase == PHASES[0]:
            self._step_started = now
        elif self._position[1] == "computing":
            self.durations.append(now - self._step_started)
        self._position = (step, phase, now)

    # ---- the thread's side ----

    def limit_s(self) -> float:
        """How long the present phase may last, in seconds."""
        durations = list(self.durations)
        if self._position[1] in PATIENT_PHASES or len(durations) < _STEPS_BEFORE_JUDGING:
            return self.hang.patience_s
        limit = max(self.hang.floor_s, self.hang.factor * statistics.median(durations))
        return limit / 10 if self._hurry else limit

    def _watch(self) -> None:
        while not self._ended:
            self._sleep()
            seconds_left = self.limit_s() - (time.monotonic() - self._position[2])
            # The backstop runs without the interpreter: for a main thread that hangs and holds its lock.
            faulthandler.dump_traceback_later(max(seconds_left, 0) + _BACKSTOP_S, exit=True, file=sys.__stderr__)
            called = self._beat() and self._ask(lambda: self._store.check([_HANG_KEY]))
            if (seconds_left < 0 or called) and not self._ended:
                self._judge(called)

    def _sleep(self) -> None:
        waiting = select.poll()
        waiting.register(self._wake_read, select.POLLIN)
        if waiting.poll(1000 * self._interval_s) and signal.SIGTERM in os.read(self._wake_read, 4096):
            self._hurry = True

    def _ask(self, question: Callable):
        """The store's answer, or None when it does not answer: its machine may be the one that is gone."""
        try:
            return question()
        except Exception:  # the stores raise classes of their own
            return None

    def _beat(self) -> bool:
        step, phase, since = self._position
        seconds = time.monotonic() - since
        patient = self.limit_s() == self.hang.patience_s and seconds < self.hang.patience_s
        self._count += 1
        beat = Heartbeat(self._count, step, phase, seconds, patient, socket.gethostname(), self._process)
        return self._ask(lambda: self._store.set(_key(self.rank), json.dumps(asdict(beat))) or True) is not None

    def _read(self) -> list[Heartbeat] | None:
        texts = self._ask(lambda: self._store.multi_get([_key(rank) for rank in range(self.world_size)]))
        return texts and [Heartbeat(**json.loads(text)) for text in texts]

    def _judge(self, called: bool) -> None:
        """Decide whether this is a hang; if so, this process ends here."""
        position = self._position
        before = self._read()
        for _ in range(_BEATS):
            time.sleep(self._interval_s)
            self._beat()
        now = self._read()
        silent = [r for r in range(self.world_size) if before and now and before[r].count == now[r].count]
        if not called:
            others_work = now is not None and not silent and any(beat.patient for beat in now)
            if self._position is not position or others_work:
                return
        self._ask(lambda: self._store.set(_HANG_KEY, "1"))
        self._write_stacks()
        if now is not None and self.rank == min(set(range(self.world_size)) - set(silent), default=self.rank):
            print(self._verdict(now, silent), flush=True)
        elif now is None:
            print(f"hang: rank {self.rank} at step {position[0]}, {position[1]}; the rank that holds the store is gone")
        self._leave(now, silent)

    def _write_stacks(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(self.folder / f"rank{self.rank}.txt", "a") as file:
                step, phase, since = self._position
                seconds = time.monotonic() - since
                print(
                    f"\n{datetime.now():%Y-%m-%d %H:%M:%S} step {step}, {phase} for {seconds:.1f} s",
                    file=file,
                    flush=True,
                )
                faulthandler.dump_traceback(file, all_threads=True)
        except OSError as error:
            print(f"stacks of rank {self.rank} go to stderr, {self.folder} cannot be written: {error}", flush=True)
            faulthandler.dump_traceback(sys.__stderr__, all_threads=True)

    def _verdict(self, beats: list[Heartbeat], silent: list[int]) -> str:
        words = [f"hang: {self._reason()}"]
        for rank in silent:
            words.append(f"behind: rank {rank} on {beats[rank].host} does not answer (last seen at {beats[rank]})")
        answering = [rank for rank in range(self.world_size) if rank not in silent]
        first = min(beats[rank].place for rank in answering)
        behind = [rank for rank in answering if beats[rank].place == first]
        if len(behind) < len(answering) and not silent:
            words += [f"behind: rank {rank} on {beats[rank].host} at {beats[rank]}" for rank in behind]
        waiting = [rank for rank in answering if rank not in behind] if not silent else answering
        if waiting:
            places = sorted({str(beats[rank]) for rank in waiting})
            words.append(f"waiting: {len(waiting)} ranks at {' and '.join(places)}")
        elif not silent:
            words.append(f"all {self.world_size} ranks are at {beats[0]}; compare their stacks")
        words.append(f"stacks: {self.folder}; this run ends with status {EXIT_STATUS} and can be started again")
        return "; ".join(words)

    def _reason(self) -> str:
        step, phase, since = self._position
        settings = f"trainer.hang.floor_s={self.hang.floor_s:g}, factor={self.hang.factor:g}"
        if len(self.durations) >= _STEPS_BEFORE_JUDGING:
            settings += f" x median step {statistics.median(self.durations):.2f} s"
        after = ", a tenth of it after SIGTERM" if self._hurry else ""
        return (
            f"rank {self.rank} is at step {step}, {phase} for {time.monotonic() - since:.1f} s "
            f"(limit {self.limit_s():.1f} s: {settings}{after})"
        )

    def _leave(self, beats: list[Heartbeat] | None, silent: list[int]) -> None:
        """Give the others time to write their stacks, kill silent neighbours, and end without any cleaning up."""
        time.sleep(2 * _BEATS * self._interval_s)
        for rank in silent:
            pid = int(beats[rank].process.split(":")[1])
            if beats[rank].host == socket.gethostname() and process_identity(pid) == beats[rank].process:
                os.kill(pid, signal.SIGKILL)
        sys.stdout.flush()
        os._exit(EXIT_STATUS)


def process_identity(pid: int) -> str:
    """``namespace:pid:start time``: the same process, not another one that got its number. Empty if it is gone."""
    try:
        namespace = os.readlink(f"/proc/{pid}/ns/pid")
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""
    return f"{namespace.replace(':', '')}:{pid}:{started}"


def _key(rank: int) -> str:
    return f"heartbeat/{rank}"
