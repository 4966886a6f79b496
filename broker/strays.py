"""Removes received files that no row names: their receiver died before it could say that they are stored."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog

from broker.files.store import DiskFileStore
from broker.workflow.ports import UnitsOfWork

log = structlog.get_logger(__name__)

MIN_AGE = timedelta(hours=1)
"""A receiver commits within seconds of placing its file, or not at all."""
LOOK_BACK = timedelta(days=7)


def remove_strays(files: DiskFileStore, units_of_work: UnitsOfWork, *, now: datetime) -> int:
    """Remove the stray files of the last week, answer how many.

    Strays are few. When the database knows fewer files than it does not know, it is rather the wrong database:
    then nothing is touched, and somebody is told.
    """
    named = 0
    unknown: set[str] = set()

    def look(paths: Sequence[str]) -> Sequence[str]:
        nonlocal named
        with units_of_work() as uow:  # one for each batch: nobody waits for the look at a week
            rows = uow.instances.with_paths(paths)
        named += len(rows)
        unknown.update(path for path in paths if path not in rows)
        return paths

    window = {"older_than": now - MIN_AGE, "newer_than": now - LOOK_BACK}
    files.sweep_strays(look, **window)
    if not unknown:
        return 0
    if len(unknown) > named:
        log.error("files without a row left alone: is this their database?", files=len(unknown), named=named)
        return 0
    removed = files.sweep_strays(lambda paths: [path for path in paths if path not in unknown], **window)
    log.warning("stray files removed", files=removed)
    return removed
