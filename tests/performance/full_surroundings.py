"""What surrounds the orders and images of a full database: who knocks, who signs in, what alarmed whom, what people did."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Engine, Table, insert, select

from broker.db.schema import (
    ACCOUNT,
    ADMISSION,
    ALERT,
    ALERT_NOTICE,
    API_TOKEN,
    BULK_OPERATION,
    CONFIGURATION,
    CONVERSATION,
    HEARTBEAT,
    KNOCK,
    MAINTENANCE,
    PROBE_RUN,
    SIGN,
    WIRE_CAPTURE,
)
from broker.domain.alerts import AlertKind
from broker.domain.knocks import KnockReason
from broker.workflow.devices_port import CONVERSATIONS_KEPT, MOST_HEARD, MOST_KNOCKS, SIGNS

ALERTS = 5_000
CAPTURES = 1_000
OPERATIONS = 2_000
PROBES = 8_000
"""A month of one every five minutes."""
ROLES = ("hl7", "dicom", "worker", "sweep", "web")
_HOPS = ("order", "worklist", "begin", "image", "finish", "delivery")


def fill_surroundings(
    engine: Engine, *, now: datetime, devices: Sequence[str], destinations: Sequence[str]
) -> None:
    """Fill the small tables as far as they are ever filled."""
    titles = [*devices, *(f"DEV{n}" for n in range(MOST_HEARD - len(devices)))]
    rows: Mapping[Table, Iterable[Mapping[str, Any]]] = {
        CONFIGURATION: (_configuration(n, now) for n in range(50)),
        HEARTBEAT: (_heartbeat(name, n, now) for n, name in enumerate(ROLES)),
        SIGN: (_sign(name, what, now) for name in titles for what in SIGNS),
        KNOCK: (_knock(n, now) for n in range(MOST_KNOCKS - 1)),
        CONVERSATION: (_conversation(name, n, now) for n in range(CONVERSATIONS_KEPT) for name in titles),
        ADMISSION: (_admission(n, now) for n in range(300)),
        WIRE_CAPTURE: (_capture(n, now, devices) for n in range(CAPTURES)),
        ACCOUNT: (_account(n, now) for n in range(200)),
        API_TOKEN: (_token(n, now) for n in range(50)),
        ALERT: (_alert(n, now, destinations) for n in range(ALERTS)),
        MAINTENANCE: (_maintenance(n, now) for n in range(100)),
        BULK_OPERATION: (_operation(n, now) for n in range(OPERATIONS)),
        PROBE_RUN: (_probe(n, now) for n in range(PROBES)),
    }
    with engine.begin() as connection:
        for table, values in rows.items():
            connection.execute(insert(table), list(values))
        # Of these alerts, not of one the broker itself has open.
        planted = select(ALERT.c.id).order_by(ALERT.c.id.desc()).limit(ALERTS)
        told = connection.execute(planted).scalars().all()
        connection.execute(insert(ALERT_NOTICE), [_notice(key, n, now) for key in told for n in range(3)])


def _capture(n: int, now: datetime, devices: Sequence[str]) -> Mapping[str, Any]:
    since = now - timedelta(hours=CAPTURES - n)
    over = since + timedelta(minutes=10)
    gone = over + timedelta(hours=24) if over + timedelta(hours=24) < now else None
    return {
        "protocol": "dicom",
        "name": devices[n % len(devices)],
        "address": "",
        "since": since,
        "until": over,
        "reason": "exams without images",
        "actor": "person1",
        "ended_at": over,
        "ended_by": "broker",
        "deleted_at": gone,
        "deleted_by": gone and "broker",
    }


def _configuration(n: int, now: datetime) -> Mapping[str, Any]:
    return {
        "sha256": f"{n:064x}",
        "body": "routes:\n- {name: ct, when: {Modality: CT}, send: [PACS1, Chest-AI]}\n",
        "loaded_at": now - timedelta(days=50 - n),
        "loaded_by": "site file",
    }


def _heartbeat(role: str, n: int, now: datetime) -> Mapping[str, Any]:
    details = {"ok": True, "detail": "port answers"}
    return {"role": role, "host": "here", "pid": n, "started_at": now, "beat_at": now, "details": details}


def _sign(ae_title: str, what: str, now: datetime) -> Mapping[str, Any]:
    at = now - timedelta(minutes=5)
    return {"ae_title": ae_title, "what": what, "at": at, "status": 0, "detail": "", "address": "10.0.1.1"}


def _knock(n: int, now: datetime) -> Mapping[str, Any]:
    at = now - timedelta(minutes=n)
    return {
        "ae_title": f"STRANGER{n}",
        "called_ae_title": "BROKER",
        "address": f"10.1.{n // 250}.{n % 250}",
        "reason": list(KnockReason)[n % len(KnockReason)].value,
        "number": n + 1,
        "first_at": at,
        "last_at": at,
    }


def _conversation(ae_title: str, n: int, now: datetime) -> Mapping[str, Any]:
    at = now - timedelta(minutes=20 - n)
    return {
        "ae_title": ae_title,
        "association": f"a{n}",
        "address": "10.0.1.1",
        "implementation": "SCANNER_1",
        "began_at": at,
        "ended_at": at,
        "served": {"list": 2, "images": 300},
        "refused": 0,
        "end": "released",
    }


def _admission(n: int, now: datetime) -> Mapping[str, Any]:
    over = n < 290
    return {
        "ae_title": f"LOANER{n}",
        "address": "10.2.0.1",
        "since": now - timedelta(days=1),
        "until": now + timedelta(hours=3),
        "reason": "loaner for a week",
        "actor": f"person{n % 40}",
        "ended_at": now if over else None,
        "ended_by": "broker" if over else None,
    }


def _account(n: int, now: datetime) -> Mapping[str, Any]:
    return {
        "name": f"person{n}",
        "role": ("viewer", "operator")[n % 2],
        "password_hash": "none",
        "is_disabled": n % 10 == 0,
        "created_at": now,
        "password_changed_at": now,
        "last_sign_in_at": now,
    }


def _token(n: int, now: datetime) -> Mapping[str, Any]:
    return {
        "token_hash": n.to_bytes(32, "big"),
        "label": f"program {n}",
        "role": "viewer",
        "issued_by": "person1",
        "created_at": now,
        "expires_at": now + timedelta(days=30),
        "revoked_at": None,
        "last_used_at": now,
    }


def _alert(n: int, now: datetime, destinations: Sequence[str]) -> Mapping[str, Any]:
    at, is_open = now - timedelta(minutes=5) * (ALERTS - n), n >= ALERTS - 20
    kinds = list(AlertKind)
    name = destinations[n % len(destinations)]
    return {
        "kind": kinds[n % len(kinds)].value,
        "subject": f"{name}{n}" if is_open else name,
        "state": "RAISED" if is_open else "RECOVERED",
        "severity": ("critical", "warning", "notice")[n % 3],
        "headline": f"{name} is slow: 12 deliveries wait, the oldest 41 min",
        "action": "See its deliveries.",
        "link": f"/destinations/{name}",
        "first_seen_at": at,
        "updated_at": at,
        "clear_since": None,
        "raised_at": at,
        "recovered_at": None if is_open else at,
        "told_at": at,
        "acknowledged_at": None,
        "acknowledged_by": None,
    }


def _notice(alert: int, n: int, now: datetime) -> Mapping[str, Any]:
    return {
        "alert": alert,
        "channel": ("email", "webhook", "syslog")[n],
        "notice": "raised",
        "state": "SENT",
        "attempts": 1,
        "said": "250 OK",
        "due_at": now,
        "created_at": now,
        "settled_at": now,
    }


def _maintenance(n: int, now: datetime) -> Mapping[str, Any]:
    begins = now - timedelta(hours=99 - n)
    return {
        "starts_at": begins,
        "ends_at": begins + timedelta(hours=2),
        "subject": "PACS1",
        "reason": "update",
        "actor": f"person{n % 40}",
        "ended_at": None,
        "ended_by": None,
    }


def _operation(n: int, now: datetime) -> Mapping[str, Any]:
    at = now - timedelta(minutes=25) * (OPERATIONS - n)
    return {
        "act": ("retry", "cancel", "priority")[n % 3],
        "selection": {"state": "DEAD", "destination": "PACS1"},
        "arguments": {},
        "actor": f"person{n % 40}",
        "reason": "after the update",
        "state": "DONE",
        "expected": 212,
        "position": 1,
        "changed": 200,
        "skipped": 12,
        "skipped_why": {"delivered meanwhile": 12},
        "created_at": at,
        "updated_at": at,
    }


def _probe(n: int, now: datetime) -> Mapping[str, Any]:
    at, failed = now - timedelta(minutes=5) * (PROBES - n), n % 500 == 0
    return {
        "study_instance_uid": f"2.25.{n}",
        "patient_id": f"PROBE{n}",
        "state": "CLEARED",
        "actor": "broker",
        "started_at": at,
        "ended_at": at + timedelta(seconds=2),
        "failed_hop": "delivery" if failed else None,
        "hops": [{"name": name, "ok": True, "seconds": 0.1, "detail": "it was taken"} for name in _HOPS],
    }
