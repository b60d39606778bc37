# SPDX-License-Identifier: Apache-2.0
"""Any recipe on any executor, with the same recipe arguments after ``--``.

    python recipes/launch.py --executor slurm --profile cluster --chain 4 -- \
        recipes/diffusion/general.py --factory cosmos_diffusion_7b_text2world_finetune data.path=cached

    python recipes/launch.py status|logs|cancel ID

``--dryrun`` prints the scripts and starts nothing. Docs: docs/launching.md.
"""

import argparse
import dataclasses
import sys
from importlib import import_module

from cosmos1.errors import UserError
from cosmos1.launch.jobs import UNKNOWN, JobLost, Record, find_record, make_job, refuse_secrets
from cosmos1.launch.profile_file import choose_profile
from cosmos1.option_types import count_from

EXECUTORS = {
    "local": ("local", "Local"),
    "slurm": ("slurm", "Slurm"),
    "docker": ("docker", "Docker"),
    "skypilot": ("skypilot", "Skypilot"),
    "kubeflow": ("kubeflow", "Kubeflow"),
    "lepton": ("dgx", "Lepton"),
    "dgxcloud": ("dgx", "DGXCloud"),
}


def main(arguments: list[str]) -> int:
    """Exit status: 0 done (or launched, with --detach), 2 a mistake of the user, else that of the job."""
    try:
        if arguments and arguments[0] in ("status", "logs", "cancel"):
            return manage(arguments)
        return launch(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, JobLost) else 2


def launch(arguments: list[str]) -> int:
    split = arguments.index("--") if "--" in arguments else len(arguments)
    options = launch_parser().parse_args(arguments[:split])
    name, profile = choose_profile(options.executor, options.profile, options.profile_file, options.set)
    executor = load_executor(name)
    job = make_job(
        arguments[split + 1 :],
        profile,
        options.name,
        chain=options.chain,
        dependency=options.dependency,
        retries=options.retries,
    )
    executor.check(job)
    refuse_secrets(job)
    if options.dryrun:
        for title, text in executor.texts(job).items():
            print(f"# ---- {title}\n{text.rstrip()}\n")
        return 0
    plain_profile = dataclasses.asdict(profile)
    executor.require(plain_profile)
    record = Record(job.id, job.name, name, executor.submit(job), job.command, plain_profile)
    record.save()
    print(f"launched {record.id} with {name}: {', '.join(record.jobs)}")
    return 0 if options.detach else attend(executor, record)


def attend(executor, record: Record) -> int:
    """Show the log until the job ends; Ctrl-C leaves it running."""
    command = f"python recipes/launch.py {{}} {record.id}"
    try:
        executor.logs(record, follow=True)
    except KeyboardInterrupt:
        print(f"\n{record.id} goes on; see it with: {command.format('logs')}; end it with: {command.format('cancel')}")
        return 0
    return print_states(executor, record)


def print_states(executor, record: Record) -> int:
    """One line per job. Returns the exit status of the last, because a chain goes on after jobs that ran out of time.

    0 while it runs, and 1 when its executor does not know it.
    """
    states = executor.states(record)
    for state in states:
        print(f"{state.job}  {state.state}" + (f"  exit status {state.exit_status}" if state.finished else ""))
    return states[-1].exit_status if states[-1].finished else int(states[-1].state == UNKNOWN)


def manage(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python recipes/launch.py", description="Look after an earlier launch.")
    parser.add_argument("action", choices=("status", "logs", "cancel"))
    parser.add_argument("id", help="as printed by the launch, or the name of a job for its newest launch")
    parser.add_argument("--follow", action="store_true", help="with logs: until the job ends")
    options = parser.parse_args(arguments)
    record = find_record(options.id)
    executor = load_executor(record.executor)
    if executor.asks_client:
        executor.require(record.profile)
    if options.action == "status":
        return print_states(executor, record)
    if options.action == "logs":
        executor.logs(record, options.follow)
    else:
        executor.cancel(record)
        print(f"cancelled {record.id}")
    return 0


def load_executor(name: str):
    """The executor; the others, and what they import, stay unloaded."""
    module, class_name = EXECUTORS[name]
    return getattr(import_module(f"cosmos1.launch.executors.{module}"), class_name)()


def launch_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [options] -- RECIPE ARGUMENTS",
    )
    add = parser.add_argument
    add("--executor", choices=list(EXECUTORS), help="default: the one that the profile names")
    add("--profile", metavar="NAME", help="table of the profile file")
    add("--profile-file", metavar="FILE", help="TOML or YAML; default: ~/.config/cosmos1/profiles.toml")
    add(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="replace a setting of the profile, e.g. nodes=2"
    )
    add("--name", help="name of the job; default: that of the recipe")
    add("--dryrun", action="store_true", help="print every script and command, start nothing")
    add("--detach", action="store_true", help="return when the job is submitted")
    add(
        "--chain",
        type=count_from(1),
        default=1,
        metavar="N",
        help="N jobs, each of which resumes the one before (slurm)",
    )
    add("--dependency", metavar="ID", help="launch or Slurm job that must succeed first (slurm)")
    add(
        "--retries",
        type=count_from(0),
        default=0,
        metavar="N",
        help="start again up to N times after a failure; the run resumes",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
