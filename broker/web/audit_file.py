"""The audit trail as a file: CSV (RFC 4180) that a spreadsheet opens without running anything in it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from datetime import tzinfo

from broker.workflow.audit_port import AuditLine

_COLUMNS = ("event", "at", "who", "from", "what", "of", "of_id", "order", "study_instance_uid", "sealed", "details")  # fmt: skip
_FORMULAS = ("=", "+", "-", "@", "\t", "\r")


def as_csv(lines: Sequence[AuditLine], *, zone: tzinfo) -> str:
    """Write lines of the trail, instants in the site's zone with their offset."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    for line in lines:
        writer.writerow(
            [
                line.id,
                line.at.astimezone(zone).isoformat(),
                _inert(line.actor),
                _inert(line.address),
                line.what,
                line.subject,
                "" if line.subject_id is None else line.subject_id,
                "" if line.order is None else line.order,
                _inert(line.study_instance_uid or ""),
                "yes" if line.is_sealed else "not yet",
                _inert(json.dumps(dict(line.details), ensure_ascii=False, default=str)),
            ]
        )
    return text.getvalue()


def _inert(value: str) -> str:
    """Keep a spreadsheet from reading a text as a formula: names come from people and peers."""
    return f"'{value}" if value.startswith(_FORMULAS) else value
