"""The support bundle: what somebody who helps from afar needs to know, and nothing of a patient, a person or a secret."""

from __future__ import annotations

import io
import json
import platform
import shutil
import sys
import tarfile
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import datetime, timedelta
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import structlog

from broker import __version__
from broker.bootstrap import Broker
from broker.db.engine import SQLITE_FILE
from broker.db.support import (
    database_facts,
    event_counts,
    plans,
    queue_facts,
    refusals,
)
from broker.domain.events import Event, EventName, Subject
from broker.logs import drop_patient_data
from broker.resources import Resources
from broker.scrubbing import scrubbed
from broker.workflow.reports_port import Page
from broker.workflow.selection import Selection

LOG_LINES = 2000


def support_bundle(
    broker: Broker, *, actor: str, log: Path | None = None, log_lines: int = LOG_LINES
) -> bytes:
    """Make the bundle, a tar.gz in memory: it holds numbers and bounded lists, so it stays small."""
    from broker.dashboard import health

    now = broker.clock.now()
    reports, site = broker.reports, broker.loaded.site
    # Asked for when something is broken: what cannot be read says so, and the rest comes all the same.
    parts: dict[str, Callable[[], object]] = {
        "README.txt": lambda: _README,
        "about.json": lambda: _about(broker, now),
        "site.yaml": lambda: scrubbed(broker.loaded.body),
        "health.json": lambda: {
            "parts": [asdict(part) for part in health(broker)],
            "resources": [asdict(resource) for resource in Resources(broker).read()],
        },
        "database.json": lambda: database_facts(broker.engine),
        "queues.json": lambda: queue_facts(broker.engine, tuple(site.destinations)),
        "refusals.json": lambda: refusals(broker.engine),
        "events.json": lambda: event_counts(broker.engine),
        "disk.json": lambda: _disk(broker),
        "plans.json": lambda: plans(
            broker.engine,
            (
                lambda: reports.day(since=now - timedelta(hours=12)),
                lambda: reports.needs_person(refused_since=now - timedelta(hours=24)),
                lambda: reports.destinations(now=now),
                lambda: reports.trends(now=now),
                lambda: reports.select_deliveries(Selection()),
                lambda: reports.studies(page=Page()),
                lambda: reports.orders(page=Page()),
                lambda: reports.worklist(page=Page()),
                lambda: reports.rule_traffic(since=now - timedelta(hours=12)),
            ),
        ),
    }
    if log is not None:
        parts["log.jsonl"] = lambda: last_lines(log, log_lines)
    files = {name: _read(name, part) for name, part in parts.items()}
    packed = _packed(files, mtime=int(now.timestamp()))
    with broker.units_of_work() as uow:
        uow.record(
            Event(EventName.SUPPORT_BUNDLE_MADE, Subject.SYSTEM, actor=actor, details={"bytes": len(packed)})
        )
        uow.commit()
    return packed


def _read(name: str, part: Callable[[], object]) -> object:
    try:
        return part()
    except Exception as error:
        structlog.get_logger().warning("not in the bundle", part=name, error=type(error).__name__)
        return {"cannot_be_read": type(error).__name__}


def _about(broker: Broker, now: datetime) -> dict[str, Any]:
    return {
        "version": __version__,
        "made_at": now.isoformat(),
        "python": sys.version,
        "system": platform.platform(),
        "site_file_sha256": broker.loaded.sha256,
        "packages": {found.metadata["Name"]: found.version for found in distributions()},
    }


_README = """Support bundle of Worklist Broker.

Left out by construction: patients, orders and their numbers, messages, images, account names, contacts, passwords, tokens and
keys. site.yaml is the site file without comments; what could be a secret, a contact or a patient's value reads [withheld].
"""


def last_lines(log: Path, number: int) -> str:
    """Answer the last lines of a log that are ours (JSON), filtered once more; anything else is counted only."""
    kept: deque[str] = deque(maxlen=number)
    left_out = 0
    with log.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                said: Any = json.loads(line)
            except ValueError:
                said = None
            if isinstance(said, dict):
                kept.append(json.dumps(drop_patient_data(None, "", said), ensure_ascii=False))
            else:
                left_out += 1
    return "\n".join([*kept, json.dumps({"left_out_lines": left_out})]) + "\n"


def _disk(broker: Broker) -> dict[str, Any]:
    space = shutil.disk_usage(broker.data_dir)
    storage = broker.reports.storage(now=broker.clock.now())
    database = broker.data_dir / SQLITE_FILE
    return {
        "total": space.total,
        "free": space.free,
        "database_file": database.stat().st_size if database.exists() else None,
        "images": storage.image_bytes,
        "images_per_day": storage.bytes_per_day,
    }


def _packed(files: Mapping[str, object], *, mtime: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in files.items():
            text = (
                content
                if isinstance(content, str)
                else json.dumps(content, indent=1, default=str, ensure_ascii=False)
            )
            data = text.encode()
            member = tarfile.TarInfo(f"support-bundle/{name}")
            member.size, member.mtime, member.mode = len(data), mtime, 0o600
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()
