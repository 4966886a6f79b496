"""The DICOM listener with every sync left out: what receiving costs apart from the disk. For comparison only.

Nothing of the broker can be told to run like this: this program puts another disk and another pragma under it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from sqlalchemy import Engine, event

from broker.files import store
from broker.files.disk import LocalDisk
from broker.roles import run_role


class UnsyncedDisk(LocalDisk):
    """Leaves everything in the page cache."""

    def begin_sync(self, handle: int, offset: int, count: int) -> None:
        """Begin nothing."""

    def sync(self, handle: int) -> None:
        """Sync nothing."""

    def sync_folder(self, path: Path) -> None:
        """Sync nothing."""


def main(config: str, data_dir: str) -> int:
    """Run the listener until it is told to stop."""
    store.LocalDisk = UnsyncedDisk
    os.environ["BROKER_ACCEPT_DATA_LOSS"] = "yes"
    # Of the class, so that it hears of each connection after those of the engine itself have prepared it.
    event.listen(Engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF"))
    return run_role("dicom", Path(config), Path(data_dir))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
