"""Fills a database with five weeks of a busy hospital, for measuring pages and looking at them.

`python -m tests.performance.full_database DATA_DIR_OR_URL [--deliveries 100000] [--messages 100000] [--events 1000000]`
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, Table, insert, text

from broker.db.engine import database_url, open_engine
from broker.db.migrate import migrate
from broker.db.schema import (
    DECISION,
    DELIVERY,
    DELIVERY_ITEM,
    DESTINATION,
    EVENT,
    INSTANCE,
    MESSAGE,
    ORDER,
    PATIENT,
    PERFORMED,
    PERFORMED_LINK,
    PERFORMED_STUDY,
    PROCEDURE,
    STEP,
    STEP_STATION,
    STUDY,
)
from broker.domain.causes import cause_of
from tests.performance.full_surroundings import fill_surroundings

SPAN = timedelta(weeks=5)
DESTINATIONS = ("PACS1", "Chest-AI", "Stroke-AI", "Film", "ris")
DEVICES = ("CT1", "CT2", "MR1", "MR2", "US3", "DX1")
SENDERS = ("RIS", "HIS", "ADT")
SITE: Mapping[str, Any] = {
    "site": {"timezone": "UTC", "ae_title": "BROKER", "name": "Measured"},
    "devices": [{"ae_title": name, "modality": ["CT"]} for name in DEVICES],
    "destinations": {
        **{
            name: {"kind": "dicom", "host": "127.0.0.1", "port": 9, "called_ae_title": "PEER"}
            for name in ("PACS1", "Chest-AI", "Stroke-AI")
        },
        "Film": {"kind": "print", "host": "127.0.0.1", "port": 9, "called_ae_title": "PRINTER"},
        "ris": {"kind": "mllp", "host": "127.0.0.1", "port": 9},
    },
    "feedback": {"destination": "ris"},
    "routes": [{"name": "ct", "when": {"Modality": "CT"}, "send": ["PACS1", "Chest-AI"]}],
}
"""The site file these rows are of."""
EVENT_NAMES = (
    *(("delivery created", "delivery claimed", "delivery delivered") * 4),
    *(("message received", "worklist queried") * 4),
    *(("performed step created", "performed step finished", "instance received", "order placed") * 2),
    *(("routed", "viewed") * 2),
    "delivery to be retried",
    "delivery died",
    "device refused",
)
DEEDS = ("delivery retried by a person", "signed in", "searched", "destination paused")
"""One event in a thousand."""
REASONS = (
    "association rejected: the peer does not know the called AE title",
    "no connection: connection refused",
    "C-STORE was answered A700",
    "the connection was lost",
    "no answer in time",
)
ROWS = 5000
"""Of one INSERT."""


def fill(
    engine: Engine,
    *,
    now: datetime,
    deliveries: int = 100_000,
    messages: int = 100_000,
    events: int = 1_000_000,
    orders: int = 20_000,
    instances: int = 100_000,
    seed: int = 1,
) -> None:
    """Fill a migrated, empty database; the same seed fills it alike."""
    draw = random.Random(seed)
    start = now - SPAN

    def at(number: int, of: int) -> datetime:
        return start + SPAN * (number / of)

    def study(number: int) -> str:
        return f"1.2.826.0.1.3680043.10.777.{number % orders + 1}"

    _insert(engine, PATIENT, orders // 4, lambda n: _patient(n, start))
    _insert(engine, ORDER, orders, lambda n: _order(n, at(n, orders), orders))
    _insert(engine, PROCEDURE, orders, lambda n: _procedure(n, study(n)))
    _insert(engine, STEP, orders, lambda n: _step(n, at(n, orders), study(n), now, orders))
    _insert(engine, STEP_STATION, orders, lambda n: _station(n, at(n, orders), now))
    _insert(engine, MESSAGE, messages, lambda n: _message(n, at(n, messages), draw, orders))
    studies = max(1, instances // 50)
    _insert(engine, STUDY, studies, lambda n: _study(n, study(n), at(n, studies)))
    _insert(engine, INSTANCE, instances, lambda n: _instance(n, study(n // 50), at(n, instances), orders))
    _insert(engine, PERFORMED, orders, lambda n: _performed(n, study(n), at(n, orders), orders))
    _insert(engine, PERFORMED_LINK, orders, lambda n: {"performed": n + 1, "step": n + 1})
    _insert(engine, PERFORMED_STUDY, orders, lambda n: {"study_instance_uid": study(n), "performed": n + 1})
    _insert(
        engine,
        DELIVERY,
        deliveries,
        lambda n: {**_delivery(n, study(n), at(n, deliveries), deliveries, now), "order": n % orders + 1},
    )
    _insert(engine, DELIVERY_ITEM, deliveries, lambda n: _item(n, deliveries, instances))
    fill_surroundings(engine, now=now, devices=DEVICES, destinations=DESTINATIONS)
    _insert(engine, DECISION, instances, lambda n: _decision(n, study(n // 50), at(n, instances)))
    _insert(engine, EVENT, events, lambda n: _event(n, study(n), at(n, events), draw, orders))
    with engine.begin() as connection:
        connection.execute(
            insert(DESTINATION),
            [
                {
                    "name": name,
                    "state": state,
                    "reason": reason,
                    "since": now - timedelta(minutes=41),
                    "failures": 0,
                    "open_until": None,
                    "last_success_at": now - timedelta(minutes=1),
                    "last_check_at": None,
                    "last_check": None,
                }
                for name, state, reason in (
                    ("PACS1", "failing", "association rejected: called AE title not recognised"),
                    ("Film", "paused", "tray change"),
                )
            ],
        )
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))


def _insert(engine: Engine, table: Table, number: int, row: Callable[[int], Mapping[str, Any]]) -> None:
    rows: Iterator[Mapping[str, Any]] = (row(n) for n in range(number))
    while chunk := list(islice(rows, ROWS)):
        with engine.begin() as connection:
            connection.execute(insert(table), chunk)


def _patient(n: int, start: datetime) -> Mapping[str, Any]:
    return {
        "patient_id": f"PID{n}",
        "issuer": "HOSP",
        "name": f"ZZTEST{n}^ANNA",
        "name_key": f"ZZTEST{n}^ANNA",
        "birth_date": "19700101",
        "sex": "F",
        "other_ids": [],
        "attributes": {},
        "sources": {},
        "merged_into": None,
        "created_at": start,
        "updated_at": start,
    }


def _order(n: int, at: datetime, orders: int) -> Mapping[str, Any]:
    names = ("placer_namespace", "placer_universal_id", "placer_universal_id_type", "filler_namespace")
    more = ("filler_universal_id", "filler_universal_id_type", "issuer_of_accession_number", "last_event_at")
    return {
        **dict.fromkeys((*names, *more)),
        "patient": n % (orders // 4) + 1,
        "placer_order_number": f"P{n}",
        "filler_order_number": f"F{n}",
        "accession_number": f"A{n}",
        "status": "SCHEDULED" if n > orders - 200 else "COMPLETED",
        "attributes": {},
        "sources": {},
        "sending_application": "RIS",
        "sending_facility": "HOSP",
        "created_at": at,
        "updated_at": at,
    }


def _procedure(n: int, study: str) -> Mapping[str, Any]:
    return {
        "order": n + 1,
        "requested_procedure_id": f"RP{n}",
        "study_instance_uid": study,
        "attributes": {
            "RequestedProcedureDescription": "CT CHEST",
            "RequestedProcedurePriority": "STAT" if n % 50 == 0 else "ROUTINE",
        },
        "sources": {},
    }


def _status(at: datetime, now: datetime) -> str:
    if at < now - timedelta(hours=4):
        return "COMPLETED"
    return "STARTED" if at < now - timedelta(hours=3) else "SCHEDULED"


def _step(n: int, at: datetime, study: str, now: datetime, orders: int) -> Mapping[str, Any]:
    status = _status(at, now)
    incomplete = status == "SCHEDULED" and n % 40 == 0
    return {
        "procedure": n + 1,
        "order": n + 1,
        "patient": n % (orders // 4) + 1,
        "scheduled_procedure_step_id": f"SPS{n}",
        "modality": "CT",
        "station_ae_titles": [DEVICES[n % len(DEVICES)]],
        "start_date": at.strftime("%Y%m%d"),
        "start_time": at.strftime("%H%M%S"),
        "time_unspecified": False,
        "status": status,
        "previous_status": None,
        "status_changed_at": at,
        "offered": status == "SCHEDULED" and not incomplete,
        "missing": ["Modality"] if incomplete else [],
        "priority_rank": 1 if n % 50 == 0 else 4,
        "patient_id": f"PID{n % (orders // 4)}",
        "name_key": f"ZZTEST{n % (orders // 4)}^ANNA",
        "accession_number": f"A{n}",
        "requested_procedure_id": f"RP{n}",
        "study_instance_uid": study,
        "attributes": {},
        "sources": {},
        "elements": b"",
        "revision": 0,
        "created_at": at,
        "updated_at": at,
    }


def _station(n: int, at: datetime, now: datetime) -> Mapping[str, Any]:
    return {
        "step": n + 1,
        "ae_title": DEVICES[n % len(DEVICES)],
        "offered": _status(at, now) == "SCHEDULED",
        "start_date": at.strftime("%Y%m%d"),
    }


def _message(n: int, at: datetime, draw: random.Random, orders: int) -> Mapping[str, Any]:
    outcome = "parked" if n % 5000 == 4999 else "refused" if n % 1000 == 999 else "accepted"
    return {
        "received_at": at,
        "peer": f"10.0.0.{n % 3}:{50000 + n % 999}",
        "sending_application": SENDERS[n % len(SENDERS)],
        "sending_facility": "HOSP",
        "message_control_id": f"M{n}",
        "message_type": "ORM^O01",
        "content_sha256": draw.randbytes(32),
        "raw": b"MSH|^~\\&|RIS|HOSP|BROKER|HOSP|20261121||ORM^O01|M|P|2.3.1\rPID|||PID1||ZZTEST^ANNA\r" * 6,
        "outcome": outcome,
        "acknowledgement_code": "AE" if outcome == "refused" else "AA",
        "answer": b"MSA|AA|1\r",
        "problems": [] if outcome == "accepted" else [{"place": "PID-3.1", "text": "a patient id is needed"}],
        "order": n % orders + 1,
        "attempts": 1,
    }


def _study(n: int, study: str, at: datetime) -> Mapping[str, Any]:
    return {
        "study_instance_uid": study,
        "patient_id": f"PID{n}",
        "accession_number": f"A{n}",
        "received_at": at,
    }


def _instance(n: int, study: str, at: datetime, orders: int) -> Mapping[str, Any]:
    return {
        "sop_instance_uid": f"1.2.826.0.2.{n}",
        "version": 1,
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "study_instance_uid": study,
        "series_instance_uid": f"{study}.1",
        "patient_id": f"PID{n // 50}",
        "accession_number": f"A{n // 50}",
        "modality": "CT",
        "path": f"20261121/{n}.dcm",
        "size_bytes": 524_288,
        "data_set_offset": 350,
        "sha256": None,
        "facts": {"Modality": ["CT"]},
        "calling_ae_title": DEVICES[n // 50 % len(DEVICES)],
        "called_ae_title": "BROKER",
        "peer": "10.0.1.1:104",
        "order": n // 50 % orders + 1,
        "state": "UNROUTED" if n % 10_000 == 0 else "ROUTED",
        "received_at": at,
        "last_received_at": at,
        "resends": 0,
    }


def _performed(n: int, study: str, at: datetime, orders: int) -> Mapping[str, Any]:
    return {
        "sop_instance_uid": f"1.2.826.0.3.{n}",
        "status": "COMPLETED",
        "calling_ae_title": DEVICES[n % len(DEVICES)],
        "performed_station_ae_title": DEVICES[n % len(DEVICES)],
        "modality": "CT",
        "patient_id": f"PID{n % (orders // 4)}",
        "study_instance_uids": [study],
        "data_set": b"\x00" * 600,
        "series": {f"{study}.1": [f"1.2.826.0.2.{50 * n}"]},
        "started_at": (at + timedelta(seconds=3)).strftime("%Y%m%d%H%M%S"),
        "ended_at": (at + timedelta(minutes=9)).strftime("%Y%m%d%H%M%S"),
        "discontinuation_reason": None,
        "matched": True,
        "patient_mismatch": False,
        "created_at": at,
        "updated_at": at + timedelta(minutes=9),
    }


def _state(n: int, deliveries: int) -> str:
    if n >= deliveries - 300:
        return "PENDING"
    if DESTINATIONS[n % len(DESTINATIONS)] == "Chest-AI" or n % 200 == 7:
        return "DEAD"  # one has not taken anything for weeks
    return "CANCELLED" if n % 500 == 3 else "DELIVERED"


def _delivery(n: int, study: str, at: datetime, deliveries: int, now: datetime) -> Mapping[str, Any]:
    state = _state(n, deliveries)
    destination = ("PACS1", "Film")[n % 2] if state == "PENDING" else DESTINATIONS[n % len(DESTINATIONS)]
    is_message, is_good = destination == "ris", state == "DELIVERED"
    reason = None if is_good else REASONS[n // len(DESTINATIONS) % len(REASONS)]
    return {
        "destination": destination,
        "kind": "mllp" if is_message else "print" if destination == "Film" else "dicom",
        "route": None if is_message else "ct",
        "unit": "message" if is_message else "series",
        "unit_uid": f"{study}.{n}",
        "study_instance_uid": study,
        "ordering_key": None,
        "state": state,
        "reason": reason,
        "failure_class": None if is_good else "permanent",
        "cause": None if reason is None else cause_of(reason).name,
        "attempt": 1,
        "failures": 0,
        "priority": 4,
        "due_at": min(at, now),
        "collect_until": None,
        "lease_until": None,
        "worker": None,
        "payload": b"MSH|^~\\&|BROKER|HOSP|RIS|HOSP|20261121||ORM^O01|M|P|2.3.1\r" if is_message else None,
        "items": 0 if is_message else 300,
        "items_delivered": 300 if is_good and not is_message else 0,
        "items_rejected": 0,
        "first_sent_at": at,
        "created_at": at,
        "updated_at": at + timedelta(seconds=2),
    }


def _item(n: int, deliveries: int, instances: int) -> Mapping[str, Any]:
    is_good = _state(n, deliveries) == "DELIVERED"
    return {
        "delivery": n + 1,
        "instance": n % instances + 1,
        "state": "DELIVERED" if is_good else "WAITING",
        "wire_status": "0000" if is_good else None,
        "reason": None,
        "sends": 1,
        "settled_at": None,
    }


def _decision(n: int, study: str, at: datetime) -> Mapping[str, Any]:
    return {
        "instance": n + 1,
        "study_instance_uid": study,
        "configuration": 1,
        "decided_at": at,
        "facts": {"Modality": ["CT"]},
        "routes": ["ct"],
        "conflicts": [],
    }


def _event(n: int, study: str, at: datetime, draw: random.Random, orders: int) -> Mapping[str, Any]:
    name = DEEDS[n // 1000 % len(DEEDS)] if n % 1000 == 0 else EVENT_NAMES[draw.randrange(len(EVENT_NAMES))]
    subject = {"performed": "performed step", "worklist": "device", "viewed": "order", "routed": "instance"}
    about = subject.get(name.partition(" ")[0], name.partition(" ")[0])
    person = name in DEEDS or name == "viewed"
    details: dict[str, Any] = {"destination": DESTINATIONS[n % len(DESTINATIONS)], "attempt": 1}
    if about == "device":
        details = {"asked_at": at.isoformat(), "answers": 1, "status": 0, "steps": [str(n % orders + 1)]}
    elif name in {"delivery to be retried", "delivery died"}:
        details |= {"reason": REASONS[n % len(REASONS)], "failure_class": "transient"}
    elif name in {"instance received", "routed"}:
        details = {"series_instance_uid": f"{study}.1", "routes": ["ct"]}
    is_device = about in {"device", "performed step"} or name == "instance received"
    return {
        "at": at,
        "name": name,
        "subject": about if len(about) <= 16 else "system",
        "subject_id": n % orders + 1,
        "study_instance_uid": None if about in {"device", "message"} else study,
        "order": n % orders + 1 if about in {"order", "performed step"} else None,
        "actor": DEVICES[n % len(DEVICES)] if is_device else f"person{n % 40}" if person else "broker",
        "details": details,
        "seal_no": None,
        "seal": None,
    }


def main() -> None:
    """Fill what is named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("where", help="A data directory for SQLite, or a database URL.")
    for name, number in (("deliveries", 100_000), ("messages", 100_000), ("events", 1_000_000)):
        parser.add_argument(f"--{name}", type=int, default=number)
    given = parser.parse_args()
    if "://" not in given.where:
        Path(given.where).mkdir(parents=True, exist_ok=True)
    url = given.where if "://" in given.where else database_url(Path(given.where).absolute())
    engine = open_engine(url)
    migrate(engine)
    before = time.monotonic()
    fill(
        engine,
        now=datetime.now(UTC),
        deliveries=given.deliveries,
        messages=given.messages,
        events=given.events,
    )
    engine.dispose()
    print(f"filled {given.where} in {time.monotonic() - before:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
