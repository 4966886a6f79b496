"""Kills the process at a named moment, once, so that tests can break it exactly where it hurts.

Inert unless `BROKER_FAILPOINTS` names a folder; a file in it with the name of a failpoint arms that failpoint.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

VARIABLE = "BROKER_FAILPOINTS"


def failpoint(name: str) -> None:
    """Die here by SIGKILL if a test has armed this failpoint; the first process to come disarms it."""
    folder = os.environ.get(VARIABLE)
    if folder is None:
        return
    try:
        Path(folder, name).unlink()
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
