"""Brings received files and their rows together again after a receiver died or the power was cut.

A file that no row names was never acknowledged and goes; a row whose file lost its final name gets it back.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import structlog

from broker.files.store import DiskFileStore
from broker.workflow.unit_of_work import UnitsOfWork

log = structlog.get_logger(__name__)

MIN_AGE = timedelta(hours=1)
"""A receiver commits within seconds of placing its file, or not at all."""
LOOK_BACK = timedelta(days=7)
CLOCK_STEP = timedelta(days=1)
"""How far the clock may have stepped between the making of an incoming file and its row."""


def restore_names(files: DiskFileStore, units_of_work: UnitsOfWork) -> int:
    """Give final names again that a power cut took; once at start, before files are read. Answer how many."""
    unsettled = files.unsettled()
    if not unsettled:
        return 0
    since = max(min(unsettled.values()), datetime.min.replace(tzinfo=UTC) + CLOCK_STEP) - CLOCK_STEP
    with units_of_work() as uow:
        paths = uow.instances.paths_named(list(unsettled), since=since)
    restored = sum(files.restore(path) for path in sorted(paths))
    if restored:
        log.warning("names of received files restored after a power cut", files=restored)
    return restored


def remove_unfinished(files: DiskFileStore, units_of_work: UnitsOfWork, *, now: datetime) -> int:
    """Remove what dead receivers left in the incoming folder, except from rows. Answer how many files."""

    def paths_of(names: Sequence[str]) -> set[str]:
        with units_of_work() as uow:
            return uow.instances.paths_named(names)

    return files.sweep_incoming(paths_of, older_than=now - MIN_AGE)


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
