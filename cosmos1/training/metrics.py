# SPDX-License-Identifier: Apache-2.0
"""What a run tells: metrics.jsonl, TensorBoard, wandb, a progress line, videos, and loss.png.

    with MetricsLogger(run_dir, max_steps=1000, is_main=rank == 0, config=recipe) as metrics:
        metrics.log(step, {"loss": 0.31, "lr": 1e-5, "step_time_s": 0.8, "samples_per_s": 10.0})

metrics.jsonl in the run folder is the record; everything else can be made again from it. One line is one JSON object
with "step" and the values that were logged together: loss, lr, grad_norm, step_time_s and data_time_s (seconds),
samples_per_s, tokens_per_s, tflops_per_gpu, mfu (0..1), memory_gib, and val_* from validations. JSON has no NaN, so a
value that is not finite is written as null.
"""

import errno
import json
import math
import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional

from cosmos1.training.progress import ProgressDisplay

METRICS_FILE = "metrics.jsonl"
PLOT_FILE = "loss.png"


class MetricsLogger:
    """Records the values of a run on its main rank; on other ranks every method returns at once.

    wandb takes part when WANDB_API_KEY is set or WANDB_MODE is "offline". Its project is WANDB_PROJECT_NAME, else
    WANDB_PROJECT, else "cosmos1"; its run id is WANDB_RUN_ID, else the one kept in the run folder, so that a run that
    is started again continues in the same place.

    Args:
        run_dir: the run folder; made when it is missing.
        max_steps: the last step of the run, for the progress display.
        is_main: whether this process is the one that records.
        config: plain values that describe the run, shown by wandb.
    """

    def __init__(self, run_dir: Path, max_steps: int, is_main: bool = True, config: Optional[Dict[str, Any]] = None):
        self.run_dir = Path(run_dir)
        self.is_main = is_main
        self.config = config or {}
        self._progress = ProgressDisplay(max_steps) if is_main else None
        self._purge_step: Optional[int] = None
        self._file = self._tensorboard = self._wandb = None
        self._wandb_asked, self._away = False, False
        self._unwritten: List[bytes] = []

    def __enter__(self) -> "MetricsLogger":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def truncate_after(self, step: int) -> None:
        """Forget what was logged after `step`; call it before the first `log` of a run resumed from that step."""
        path = self.run_dir / METRICS_FILE
        if not self.is_main or not path.exists():
            return
        kept = [json.dumps(row) + "\n" for row in read_metrics(path) if row["step"] <= step]
        replacement = path.with_suffix(".tmp")
        replacement.write_text("".join(kept))
        os.replace(replacement, path)
        self._purge_step = step + 1

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Record numbers (Python, NumPy or one-element tensors) of one step; val_* values also redraw loss.png."""
        if not self.is_main:
            return
        numbers = {name: float(value) for name, value in values.items()}
        row = {"step": step} | {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        self._unwritten.append((json.dumps(row, allow_nan=False) + "\n").encode())
        with self._keeping_on(f"step {step}"):
            self._open()
            self._write_rows()
            for name, value in numbers.items():
                self._tensorboard.add_scalar(name, value, step)
            if any(name.startswith("val_") for name in numbers):
                self._tensorboard.flush()
                self.redraw()
        if self._wandb is not None:
            self._wandb.log({"step": step} | numbers)
        with suppress(OSError):  # standard output may be a file on the same disk
            self._progress.update(step, numbers)

    def _write_rows(self) -> None:
        while self._unwritten:
            row = self._unwritten[0]
            if self._file.write(row) < len(row):
                raise OSError(errno.ENOSPC, f"only a part of a line fits into {METRICS_FILE}")
            del self._unwritten[0]

    @contextmanager
    def _keeping_on(self, what: str) -> Iterator[None]:
        """A disk that is full or away must not end a run: rows wait in memory, the files are opened anew with the next."""
        try:
            yield
            if self._away:
                self.message(f"{self.run_dir} can be written again, {METRICS_FILE} is complete")
            self._away = False
        except OSError as error:
            if not self._away:
                self.message(
                    f"WARNING: {what} is not recorded in {self.run_dir}: {error}; training goes on, it is tried again"
                )
            self._away = True
            self._close_files()

    def _close_files(self) -> None:
        for stream in (self._file, self._tensorboard):
            with suppress(OSError):
                if stream is not None:
                    stream.close()
        self._file = self._tensorboard = None

    def log_video(self, step: int, name: str, frames_THWC: Any, fps: float) -> Optional[Path]:
        """Write uint8 RGB frames [T, H, W, 3] to videos/<name>-step=<step>.mp4, and show them in TensorBoard and wandb.

        Returns the path of the file, None on other ranks and when it could not be written.
        """
        if not self.is_main:
            return None
        from cosmos1.data.video import write_video

        path = self.run_dir / "videos" / f"{name}-step={step}.mp4"
        with self._keeping_on(f"video {path.name}"):
            self._open()
            write_video(path, frames_THWC, fps)
            middle = frames_THWC[len(frames_THWC) // 2]
            self._tensorboard.add_image(name, middle, step, dataformats="HWC")
            if self._wandb is not None:
                import wandb

                self._wandb.log({"step": step, name: wandb.Video(str(path), format="mp4")})
            return path
        return None

    def message(self, text: str) -> None:
        """Print one line for people, from the main rank only, without breaking the progress bar."""
        if self.is_main:
            with suppress(OSError):
                self._progress.message(text)

    def redraw(self) -> None:
        """Draw loss.png from metrics.jsonl."""
        from cosmos1.training.plots import draw_loss

        path = self.run_dir / METRICS_FILE
        if self.is_main and path.exists():
            draw_loss(read_metrics(path), self.run_dir / PLOT_FILE, title=self.run_dir.name)

    def close(self) -> None:
        """Finish the progress display, draw the last loss.png, and close every file. May be called twice."""
        if not self.is_main:
            return
        self._progress.close()
        if self._file is not None or self._unwritten:
            with self._keeping_on("the end"):
                self._open()
                self._write_rows()
                self.redraw()
        self._close_files()
        if self._wandb is not None:
            self._wandb.finish()
        self._wandb = None

    def _open(self) -> None:
        if self._file is not None:
            return
        from torch.utils.tensorboard import SummaryWriter

        self.run_dir.mkdir(parents=True, exist_ok=True)
        path = self.run_dir / METRICS_FILE
        written = path.read_bytes() if path.exists() else b""
        # A line that a kill or a full disk has cut; its row is written again if it is still known.
        if not written.endswith(b"\n") and written:
            os.truncate(path, written.rfind(b"\n") + 1)
        # Unbuffered and in append mode: one system call per line, so that a killed run leaves whole lines.
        self._file = path.open("ab", buffering=0)
        self._tensorboard = SummaryWriter(self.run_dir / "tensorboard", purge_step=self._purge_step)
        self._purge_step = None
        if not self._wandb_asked:
            self._wandb, self._wandb_asked = self._start_wandb(), True

    def _start_wandb(self) -> Any:
        offline = os.environ.get("WANDB_MODE") in ("offline", "dryrun")
        if os.environ.get("WANDB_MODE") == "disabled" or not (offline or os.environ.get("WANDB_API_KEY")):
            return None
        import wandb

        id_path = self.run_dir / "wandb_id"
        kept_id = id_path.read_text().strip() if id_path.exists() else None
        try:
            run = wandb.init(
                project=os.environ.get("WANDB_PROJECT_NAME") or os.environ.get("WANDB_PROJECT") or "cosmos1",
                id=os.environ.get("WANDB_RUN_ID") or kept_id,
                resume="allow",
                mode="offline" if offline else "online",
                dir=str(self.run_dir),
                config=self.config,
                settings=wandb.Settings(silent=True),
            )
        except wandb.errors.Error as error:
            reason = str(error).splitlines()[0]
            self.message(f"wandb is off: {reason}; WANDB_MODE=offline records for a later `wandb sync`")
            return None
        id_path.write_text(run.id + "\n")
        # A step that is repeated after a resume would be dropped by wandb's own step counter.
        run.define_metric("step", hidden=True)
        run.define_metric("*", step_metric="step")
        return run


def read_metrics(path: Path) -> List[Dict[str, Any]]:
    """The rows of a metrics.jsonl in file order; a line cut short by a crash is left out."""
    return list(_whole_rows(Path(path).read_text()))


def _whole_rows(text: str) -> Iterator[Dict[str, Any]]:
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict) and "step" in row:
            yield row
