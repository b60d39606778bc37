# SPDX-License-Identifier: Apache-2.0
"""Experiments of NeMo-Run: each task is a node script of ours, which an executor of NeMo-Run carries to the nodes.

So quoting, environment and working folder are the same everywhere, and do not depend on how NeMo-Run builds commands
and packages code.
"""

import contextlib
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, List

from cosmos1.launch.executors.base import Executor
from cosmos1.launch.jobs import Job, JobState, Record, launches_dir

# Both are read when NeMo-Run is imported. It writes its home into scripts that start in other folders.
os.environ.setdefault("INCLUDE_WORKSPACE_FILE", "false")
if "NEMORUN_HOME" in os.environ:
    os.environ["NEMORUN_HOME"] = str(launches_dir().parent)


@contextlib.contextmanager
def experiment_of(job: Job, script: str, executor_of_task: Callable[[int], Any]) -> Iterator[Any]:
    """A NeMo-Run experiment with one task per job of the chain; nothing is started.

    Args:
        executor_of_task: the NeMo-Run executor of the task with this index.
    """
    import nemo_run as run

    experiment = run.Experiment(
        job.name,
        id=job.id,
        log_level="WARNING",
        clean_mode=True,
        enable_goodbye_message=False,
        skip_status_at_exit=True,
        serialize_metadata_for_scripts=False,
    )
    before: List[str] = []
    with experiment:
        for index, name in enumerate(job.task_names):
            task = run.Script(inline=script)
            experiment.add(task, executor=executor_of_task(index), name=name, dependencies=before)
            before = [name]
        yield experiment


def prepared_files(experiment: Any, names: List[str]) -> List[str]:
    """What a dry run of NeMo-Run writes into the folder of the experiment, which is removed again, as its parents are."""
    folder = Path(experiment._exp_dir)
    new_parents = [parent for parent in folder.parents if not parent.exists()]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            experiment.dryrun(log=False, delete_exp_dir=False)
        return [(folder / name).read_text() for name in names]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in new_parents:
            with contextlib.suppress(OSError):  # another launch may use it by now
                parent.rmdir()


def run_detached(experiment: Any) -> List[str]:
    """Submit; the numbers that the executor gave to the tasks."""
    with contextlib.redirect_stdout(io.StringIO()):
        experiment.run(detach=True)
    return [job.handle.partition("://")[2].split("/")[1] for job in experiment.jobs]


class NemoRunService(Executor):
    """Lepton and DGX Cloud: NeMo-Run talks to the service, also for state, logs and cancelling."""

    def states(self, record: Record) -> List[JobState]:
        with _reopened(record) as experiment:
            states = {name: str(job["status"]) for name, job in experiment.status(return_dict=True).items()}
        finished = ("SUCCEEDED", "FAILED", "CANCELLED")
        return [JobState(name, state, state in finished, int(state != "SUCCEEDED")) for name, state in states.items()]

    def logs(self, record: Record, follow: bool) -> None:
        """NeMo-Run prints what there is, and follows a running job in any case."""
        with _reopened(record) as experiment:
            experiment.logs(record.name)

    def cancel(self, record: Record) -> None:
        with _reopened(record) as experiment:
            experiment.cancel(record.name)


@contextlib.contextmanager
def _reopened(record: Record) -> Iterator[Any]:
    import nemo_run as run

    with run.Experiment.from_id(record.id) as experiment:
        yield experiment
