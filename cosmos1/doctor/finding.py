# SPDX-License-Identifier: Apache-2.0
"""What one check of the doctor found, and the words in which it is printed."""

from dataclasses import dataclass
from typing import Literal, Optional


@dataclass(frozen=True)
class Finding:
    """``problem``: training cannot run. ``note``: something that some user wants will not work. ``ok``: a fact."""

    level: Literal["ok", "note", "problem"]
    subject: str
    text: str
    remedy: Optional[str] = None
    """What to type or to change."""

    def line(self) -> str:
        line = f"{self.level:8s}{self.subject:22s}{self.text}"
        return f"{line}\n{'':30s}-> {self.remedy}" if self.remedy else line
