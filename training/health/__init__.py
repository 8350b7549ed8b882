"""What `training.doctor` looks at. It needs the standard library alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """How one thing stands."""

    what: str
    status: Literal["ok", "optional", "wrong"]
    """optional: it is missing, and only some uses need it."""
    found: str
    fix: str = ""
    """What to do, where there is something to do."""
