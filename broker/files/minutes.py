"""The folders kept files lie in: one for each minute of arrival, `YYYYMMDD/HHMM`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from broker.files.disk import Disk

FORMAT = "%Y%m%d/%H%M"

_DAY, _MINUTE = re.compile(r"\d{8}\Z"), re.compile(r"\d{4}\Z")


def minutes(disk: Disk, root: Path, *, newer_than: datetime | None, older_than: datetime) -> Iterator[str]:
    """Answer the minute folders in between, oldest first."""
    first = newer_than.astimezone(UTC).strftime(FORMAT) if newer_than else ""
    last = older_than.astimezone(UTC).strftime(FORMAT)
    for day in sorted(name for name, _ in disk.entries(root) if _DAY.match(name)):
        if not first[:8] <= day <= last[:8]:
            continue
        for minute in sorted(name for name, _ in disk.entries(root / day)):
            if _MINUTE.match(minute) and first <= f"{day}/{minute}" <= last:
                yield f"{day}/{minute}"
