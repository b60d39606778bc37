# SPDX-License-Identifier: Apache-2.0
"""A save that fails (full disk, file system away for a while) does not end the run: it is tried again."""

import math
import shutil
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Callable

from cosmos1.errors import CheckpointError

RETRY_AFTER_S = 60.0


class SaveAttempts:
    """Counts the saves that failed one after the other and knows when the next try is due.

    The writers agree on every failure, so all ranks count alike; only the clock is each rank's own.
    """

    def __init__(self, folder: Path, max_failed_saves: int, message: Callable[[str], None]):
        self.folder = folder
        self.max_failed_saves = max_failed_saves
        self.message = message
        self.num_failed = 0
        self._retry_at = math.inf

    def retry_due(self) -> bool:
        return time.monotonic() >= self._retry_at

    def succeeded(self) -> None:
        if self.num_failed:
            self.message(f"saved again, after {self.num_failed} failed saves")
        self.num_failed, self._retry_at = 0, math.inf

    @contextmanager
    def attempt(self, is_final: bool = False):
        """What fails inside is said and tried again later, unless it is final or has failed too often.

        Raises:
            CheckpointError: there will be no other try.
        """
        self._retry_at = math.inf
        try:
            yield
        except CheckpointError as error:
            self.num_failed += 1
            if is_final or self.num_failed >= self.max_failed_saves:
                raise
            self._retry_at = time.monotonic() + RETRY_AFTER_S
            self.message(
                f"WARNING: {error}{self._free_space()}; training goes on, the next save is tried in {RETRY_AFTER_S:.0f} s or "
                f"when it is due ({self.num_failed} failed in a row, the run ends after "
                f"log.ckpt.max_failed_saves={self.max_failed_saves})"
            )

    def _free_space(self) -> str:
        """Said with the error, because some writers report a full disk in words of their own."""
        try:
            return f" ({shutil.disk_usage(self.folder).free / 2**30:.1f} GiB free)"
        except OSError:
            return ""
