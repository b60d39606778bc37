# SPDX-License-Identifier: Apache-2.0
"""Break a running job in one way after another; print what was lost and how long it took until training went on.

    python benchmarks/faults.py --output_path /tmp/faults
    python benchmarks/faults.py --output_path /tmp/faults --faults killed_rank stopped_rank

Each job is two processes of the tiny recipe under ``torchrun --max-restarts=3``, checkpoint every 10 steps. The losses of
all its steps must equal those of an unbroken run to the last bit. The disk faults mount small file systems: they need root.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
STEPS, SAVE_EVERY = 60, 10
RECIPE = ["recipes/diffusion/general.py", "--yes", "--factory", "cosmos_diffusion_tiny_text2world_finetune"]
SETTINGS = {
    "data.num_workers": 0,
    "data.micro_batch_size": 2,
    "data.global_batch_size": 4,
    "model.config.num_layers": 1,
    "model.config.hidden_size": 64,
    "trainer.val_check_interval": 0,
    "trainer.log_every_n_steps": 1,
    "trainer.callbacks": "[]",
    "trainer.max_steps": STEPS,
    "trainer.hang.floor_s": 5,
    "log.ckpt.every_n_train_steps": SAVE_EVERY,
    "log.version": "run",
}


def recipe_arguments(log_dir: Path, latents: Path, **settings) -> list[str]:
    """The recipe and its settings as they are typed after ``torchrun`` or ``python``."""
    places = {"log.log_dir": log_dir, "data.path": latents}
    return [*RECIPE, *(f"{name}={value}" for name, value in {**SETTINGS, **places, **settings}.items())]


class Job:
    """A job under torchrun; its lines are kept with the moment at which they came."""

    def __init__(self, arguments: list[str], max_restarts: int = 3):
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        command = [sys.executable, *torchrun, f"--max-restarts={max_restarts}", *arguments]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, **pipe)
        self.lines: list[tuple[float, str]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append((time.monotonic(), line.rstrip()))

    def text(self) -> str:
        return "\n".join(line for _, line in self.lines)

    def steps(self) -> list[tuple[float, int]]:
        """The steps that were logged, repeated ones too, each with its moment."""
        return [
            (at, int(line.split("/")[0][5:]))
            for at, line in self.lines
            if line.startswith("step ") and "| loss" in line
        ]

    def wait_for(self, what: str, condition, limit_s: float = 300.0) -> None:
        deadline = time.monotonic() + limit_s
        while not condition():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.end()
                raise RuntimeError(f"the job never came to {what}:\n{self.text()[-3000:]}")
            time.sleep(0.01)

    def wait_for_step(self, step: int) -> None:
        self.wait_for(f"step {step}", lambda: any(found >= step for _, found in self.steps()))

    def ranks(self) -> list[int]:
        """Process ids of the ranks, in their order."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        by_rank = {}
        for pid in children:
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            by_rank |= {int(entry[5:]): int(pid) for entry in environment if entry.startswith(b"RANK=")}
        return [by_rank[rank] for rank in sorted(by_rank)]

    def finish(self, limit_s: float = 400.0) -> int:
        """Wait for the end; returns the status."""
        try:
            return self.process.wait(limit_s)
        finally:
            self.end()

    def end(self) -> None:
        """Kill the ranks and torchrun, if they still run."""
        if self.process.poll() is None:
            for pid in [*self.ranks(), self.process.pid]:
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join()


@dataclass
class Report:
    """What one fault did."""

    fault: str
    steps_lost: int
    """Steps that were trained a second time."""
    seconds: float
    """From the fault to the next step that was trained for the first time."""
    identical: bool
    """Whether the losses of all steps are those of an unbroken run."""
    said: list[str]


def losses(run_folder: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def report(
    fault: str, jobs: list[Job], broken_at: float, run_folder: Path, reference: dict, words: list[str]
) -> Report:
    """Compare what the jobs logged with an unbroken run. ``words`` begin the lines to quote."""
    steps = [entry for job in jobs for entry in job.steps()]
    reached = max(step for at, step in steps if at < broken_at)
    new = min(at for at, step in steps if at > broken_at and step > reached)
    repeated = [step for at, step in steps if broken_at < at < new and step <= reached]
    said = [line for job in jobs for _, line in job.lines if line.startswith(tuple(words))]
    return Report(fault, len(repeated), new - broken_at, losses(run_folder) == reference, said)


# ---- the faults; each takes (name, folder, latents, reference) ----


def signalled_rank(number: int, words: list[str], name: str, folder: Path, latents: Path, reference: dict) -> Report:
    job = Job(recipe_arguments(folder, latents))
    job.wait_for_step(25)
    broken_at = time.monotonic()
    os.kill(job.ranks()[1], number)
    status = job.finish()
    assert status == 0, job.text()[-3000:]
    return report(name, [job], broken_at, folder / "default" / "run", reference, words)


def killed_rank(*arguments) -> Report:
    """kill -9 of rank 1."""
    return signalled_rank(signal.SIGKILL, ["resumed"], *arguments)


def stopped_rank(*arguments) -> Report:
    """kill -STOP of rank 1: it neither works nor ends."""
    return signalled_rank(signal.SIGSTOP, ["hang:", "resumed"], *arguments)


def flipped_byte(name: str, folder: Path, latents: Path, reference: dict) -> Report:
    """The job is killed; a byte of its newest checkpoint changes on disk; the job is started again."""
    first = Job(recipe_arguments(folder, latents))
    first.wait_for_step(35)
    broken_at = time.monotonic()
    first.end()
    run_folder = folder / "default" / "run"
    newest = max(run_folder.glob("checkpoints/epoch=*[0-9]"), key=lambda path: int(path.name.split("step=")[1]))
    shard = max(newest.glob("weights/__*.distcp"), key=lambda path: path.stat().st_size)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    second = Job(recipe_arguments(folder, latents))
    assert second.finish() == 0, second.text()[-3000:]
    return report(name, [first, second], broken_at, run_folder, reference, ["WARNING", "resumed"])


def full_disk(name: str, folder: Path, latents: Path, reference: dict) -> Report:
    """Another program fills the disk of the run folder, and frees it 15 steps later."""
    mount("-t", "tmpfs", "-o", "size=64m", "tmpfs", folder)
    try:
        job = Job(recipe_arguments(folder, latents))
        job.wait_for_step(15)
        broken_at = time.monotonic()
        fill(folder / "ballast")
        reached = job.steps()[-1][1]
        job.wait_for_step(reached + 15)
        (folder / "ballast").unlink()
        assert job.finish() == 0, job.text()[-3000:]
        return report(name, [job], broken_at, folder / "default" / "run", reference, ["WARNING", "saved again"])
    finally:
        unmount(folder)


def lost_file_system(name: str, folder: Path, latents: Path, reference: dict) -> Report:
    """The file system of the run folder is gone for 15 steps; an empty one that cannot be written is in its place."""
    server = folder.with_name(folder.name + "_server")
    server.mkdir()
    mount("-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", folder)
    mount("--bind", server, folder)
    try:
        job = Job(recipe_arguments(folder, latents))
        job.wait_for_step(15)
        broken_at = time.monotonic()
        unmount(folder)
        reached = job.steps()[-1][1]
        job.wait_for_step(reached + 15)
        mount("--bind", server, folder)
        assert job.finish() == 0, job.text()[-3000:]
        return report(name, [job], broken_at, folder / "default" / "run", reference, ["WARNING", "saved again"])
    finally:
        unmount(folder)
        unmount(folder)


FAULTS = {
    function.__name__: function for function in (killed_rank, stopped_rank, flipped_byte, full_disk, lost_file_system)
}


def mount(*arguments) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True)


def unmount(folder: Path) -> None:
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path: Path) -> None:
    """Write until nothing fits any more."""
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_path", type=Path, required=True, help="a folder that does not exist yet")
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=list(FAULTS))
    options = parser.parse_args()
    options.output_path.mkdir(parents=True)
    latents = options.output_path / "latents"
    shape = ["--latent_shape", "16", "2", "8", "8", "--num_samples", "16"]
    subprocess.run([sys.executable, "benchmarks/make_latents.py", str(latents), *shape], cwd=ROOT, check=True)
    unbroken = Job(recipe_arguments(options.output_path / "unbroken", latents))
    assert unbroken.finish() == 0, unbroken.text()[-3000:]
    reference = losses(options.output_path / "unbroken" / "default" / "run")
    print("| fault | steps lost | seconds until new steps | losses as without it |\n|---|---|---|---|", flush=True)
    for name in options.faults:
        folder = options.output_path / name
        folder.mkdir()
        row = FAULTS[name](name, folder, latents, reference)
        print(f"| {name} | {row.steps_lost} | {row.seconds:.1f} | {'yes' if row.identical else 'NO'} |", flush=True)
        for line in row.said:
            print(f"  {line}", flush=True)
    shutil.rmtree(latents)


if __name__ == "__main__":
    main()
