# SPDX-License-Identifier: Apache-2.0
"""Files for the official inference code while a run goes on."""

from dataclasses import dataclass
from typing import Optional


@dataclass
class ExportPt:
    """Writes ``exports/iter_NNNNNNNNN_reg_model.pt`` (bf16), and ``..._ema_model.pt`` (fp32) for each EMA copy, into the
    run folder from finished checkpoints, one by one on the first rank while the others wait.

    A checkpoint that is saved in the background is exported at the first step after it is complete. The last one of the
    run is always exported.
    """

    every_n_steps: int = 1000
    """Export the checkpoints whose step is a multiple of this; checkpoints are made every log.ckpt.every_n_train_steps."""
    folder: Optional[str] = None
    """Where to write; ``exports`` in the run folder if not given. Environment variables (``${OUTPUT_ROOT}/exports``) are
    filled in when the run starts to write; ``OUTPUT_ROOT`` is ``checkpoints`` where it is not set."""

    def __post_init__(self):
        self._exported = -1

    def on_train_start(self, run) -> None:
        self._exported = run.progress.step  # what was there before was exported by the run that made it

    def on_step_end(self, run, values) -> None:
        self._export(run, last=False)

    def on_train_end(self, run) -> None:
        self._export(run, last=False)  # what the last save is about to replace
        run.writer.finish()
        self._export(run, last=True)

    def _export(self, run, last: bool) -> None:
        import torch.distributed as dist

        from cosmos1.checkpoint.folders import complete_checkpoints

        if dist.get_rank() != 0:
            return
        found = [c for c in complete_checkpoints(run.folder / "checkpoints") if c.step > self._exported]
        for checkpoint in found:
            if checkpoint.step % self.every_n_steps == 0 or (last and checkpoint is found[-1]):
                self._write(run, checkpoint)
                self._exported = checkpoint.step

    def _write(self, run, checkpoint) -> None:
        import os
        from pathlib import Path
        from string import Template

        from cosmos1.checkpoint.convert import export_pt_pair
        from cosmos1.checkpoint.formats import open_weights
        from cosmos1.errors import CheckpointError

        folder = run.folder / "exports"
        if self.folder:
            filled_in = Template(self.folder).safe_substitute({"OUTPUT_ROOT": "checkpoints"} | os.environ)
            folder = Path(filled_in).expanduser()
        try:
            for path in export_pt_pair(open_weights(checkpoint.path), folder):
                run.metrics.message(f"exported {path}")
        except (CheckpointError, OSError) as error:
            # A run must not end because its copy cannot be written; the checkpoint is there to export again.
            run.metrics.message(f"checkpoint {checkpoint.path} was not exported: {error}")
