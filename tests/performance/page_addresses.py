"""Every address that only reads: each GET route of the application, filled with what a full database holds.

Made from the routes themselves: a route that takes a parameter nothing is known for stops the measurement, so that no
new page is forgotten.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from fastapi import FastAPI
from sqlalchemy import Engine, func, select

from broker.db.engine import reading
from broker.db.schema import (
    ALERT,
    BULK_OPERATION,
    CONFIGURATION,
    DELIVERY,
    INSTANCE,
    MESSAGE,
    ORDER,
    PATIENT,
    PROBE_RUN,
    STEP,
    WIRE_CAPTURE,
)
from broker.web.access import served_routes

NOT_ASKED = {"/overview/stream": "a stream: its viewers are measured by themselves"}
_PARAMETER = re.compile(r"{(\w+)(?::\w+)?}")

VARIANTS: Mapping[str, tuple[str, ...]] = {
    "/handover": ("since={six_days_ago}",),
    "/api/handover": ("since={six_days_ago}",),
    "/worklist": (
        "date=all",
        "date=all&after={middle_step}",
        "station={ae_title}",
        "modality=CT",
        "modality=XX",
        "status=SCHEDULED",
        "status=ARRIVED",
        "date={last_week}",
    ),
    "/worklist/states": ("steps={middle_step}",),
    "/worklist/print": ("date={last_week}",),
    "/api/worklist": (
        "date={last_week}",
        "status=ARRIVED",
        "modality=XX",
        "after={middle_step}&limit=200",
    ),
    "/orders": (
        "incomplete=true",
        "status=COMPLETED",
        "status=CANCELLED",
        "page=200",
    ),
    "/orders/{order_id}": ("device={ae_title}",),
    "/api/orders": ("incomplete=true", "limit=500"),
    "/api/orders/{order_id}/sights": ("device={ae_title}",),
    "/messages": (
        "outcome=parked",
        "outcome=refused",
        "outcome=failed",
        "sender=RIS",
        "sender=nobody",
        "type=ORM%5EO01",
        "type=ADT%5EA08",
        "sender=RIS&outcome=refused",
        "type=ADT%5EA08&outcome=accepted",
        "day={last_week}",
        "q={control_id}",
        "before={middle_message}",
        "way=out",
        "way=out&outcome=dead",
        "way=out&outcome=collecting",
        "way=out&sender=ris",
        "way=out&day={last_week}",
    ),
    "/api/messages": ("outcome=parked", "sender=nobody", "after={middle_message}&limit=500"),
    "/api/messages/sent": ("state=DEAD", "state=COLLECTING", "day={last_week}", "destination=PACS1"),
    "/images": ("state=UNROUTED", "state=RECEIVED", "state=ROUTED", "page=40"),
    "/api/studies": ("state=UNROUTED", "state=RECEIVED", "after={study_instance_uid}&limit=500"),
    "/deliveries": (
        "state=DEAD",
        "state=DELIVERED",
        "state=COLLECTING",
        "state=DEAD&destination=Chest-AI",
        "state=COLLECTING&destination=Chest-AI",
        "state=CANCELLED",
        "destination=PACS1",
        "destination=nowhere",
        "cause=timeout",
        "cause=called AE title",
        "route=ct",
        "route=none",
        "state=PENDING&route=none",
        "study={study_instance_uid}",
        "operation={operation_id}",
        "age=7d",
        "age=7d&destination=PACS1",
        "age=7d&state=PENDING",
        "since={six_days_ago}",
        "since={six_days_ago}&state=DEAD&destination=Film",
        "until={six_days_ago}&destination=PACS1",
        "before={middle_delivery}",
        "after={middle_delivery}",
    ),
    "/api/deliveries": (
        "state=DEAD",
        "destination=PACS1",
        "destination=nowhere",
        "study={study_instance_uid}",
    ),
    "/deliveries/review": (
        "do=retry&state=DEAD",
        "do=retry&state=DEAD&destination=Chest-AI",
        "do=retry&state=CANCELLED",
        "do=cancel&state=PENDING",
        "do=cancel&which=all",
        "do=retarget&to=PACS1&state=DEAD",
        "do=priority&priority=high&destination=PACS1",
        "do=retry&operation={operation_id}",
        "do=retry&since={six_days_ago}",
    ),
    "/operations": ("before=1000",),
    "/admin": ("name=person150", "before=20"),
    "/api/operations": ("before=1000&limit=500",),
    "/devices": ("all_knocks=true",),
    "/api/knocks": ("limit=500",),
    "/api/admissions": ("limit=500",),
    "/api/captures": ("limit=500",),
    "/alerts": ("before=3000",),
    "/api/alerts/over": ("before=3000&limit=500",),
    "/routes": ("days=365",),
    "/api/routes": ("days=365",),
    "/api/probe": ("limit=500",),
}
"""Questions asked beside the plain address. Those that find nothing are there too: they look longest."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request that reads."""

    route: str
    address: str
    method: str = "GET"
    expected: int = 200
    form: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)

    def is_as_expected(self, status: int) -> bool:
        """Tell whether an answer is the one that was to be measured."""
        return status in {200, 303, self.expected}

    def __str__(self) -> str:
        """Write it as a person reads it."""
        more = " ".join(
            f"{name}={value}" for name, value in (*self.form.items(), *self.body.items()) if value
        )
        return f"{self.method} {self.address}{' ' if more else ''}{more}"


def known_in(engine: Engine, *, now: datetime) -> dict[str, str]:
    """Answer what the parameters of routes are in a database filled by `full_database`."""
    with reading(engine) as connection:

        def newest(column: Any, *conditions: Any) -> str:
            return str(connection.execute(select(func.max(column)).where(*conditions)).scalar_one())

        number = {table.name: int(newest(table.c.id)) for table in (DELIVERY, MESSAGE, STEP, ORDER)}
        order = number[ORDER.name] - 300
        patient, accession = connection.execute(
            select(PATIENT.c.patient_id, ORDER.c.accession_number)
            .join(ORDER, ORDER.c.patient == PATIENT.c.id)
            .where(ORDER.c.id == order)
        ).one()
        study = newest(INSTANCE.c.study_instance_uid)
        series, sop = connection.execute(
            select(INSTANCE.c.series_instance_uid, INSTANCE.c.sop_instance_uid)
            .where(INSTANCE.c.study_instance_uid == study)
            .limit(1)
        ).one()
        return {
            "order_id": str(order),
            "message_id": newest(MESSAGE.c.id, MESSAGE.c.outcome == "refused"),
            "delivery_id": newest(DELIVERY.c.id, DELIVERY.c.state == "DEAD", DELIVERY.c.unit == "series"),
            "sent_message": newest(DELIVERY.c.id, DELIVERY.c.unit == "message"),
            "study_instance_uid": study,
            "instance_id": newest(INSTANCE.c.id),
            "operation_id": newest(BULK_OPERATION.c.id),
            "alert_id": newest(ALERT.c.id),
            "capture": newest(WIRE_CAPTURE.c.id),
            "run": newest(PROBE_RUN.c.id),
            "configuration_id": newest(CONFIGURATION.c.id),
            "ae_title": "CT1",
            "name": "PACS1",
            "account": "person7",
            "patient_id": patient,
            "accession_number": accession,
            "control_id": f"M{number[MESSAGE.name] // 2}",
            "series_instance_uid": series,
            "sop_instance_uid": sop,
            "middle_delivery": str(number[DELIVERY.name] // 2),
            "middle_message": str(number[MESSAGE.name] // 2),
            "middle_step": str(number[STEP.name] // 2),
            "last_week": f"{now - timedelta(days=7):%Y-%m-%d}",
            "six_days_ago": f"{now - timedelta(days=6, hours=23):%Y-%m-%dT%H:%M}",
        }


EXPECTED = {
    "/healthz": 503,  # no role runs
    "/instances/{instance_id}/preview": 422,  # no file is there
    "/api/instances/{instance_id}/preview": 422,
    "/devices/{ae_title:path}/would": 422,  # several orders fit
}
"""What is answered instead of a page or a way to one."""
SPECIAL = {
    "/messages/out/{delivery_id}": {"delivery_id": "sent_message"},
    "/api/messages/sent/{delivery_id}": {"delivery_id": "sent_message"},
    "/api/accounts/{name}": {"name": "account"},
}
"""Where a parameter means something else than its name says."""


def addresses(app: FastAPI, known: Mapping[str, str]) -> list[Asked]:
    """Answer every address that reads. Raises LookupError for a parameter nothing is known for."""
    routes = {route.path for route in served_routes(app) if "GET" in route.methods}
    if gone := {*VARIANTS, *NOT_ASKED, *SPECIAL} - routes:
        raise LookupError(f"page_addresses asks routes that are not there: {sorted(gone)}")
    asked: list[Asked] = []
    for path in sorted(routes - NOT_ASKED.keys()):
        plain = _PARAMETER.sub(lambda found, path=path: _value(path, found[1], known), path)
        needs = path in {
            "/worklist/states",
            "/api/orders/{order_id}/sights",
        }  # a question is not optional there
        asked += [] if needs else [Asked(path, plain, expected=EXPECTED.get(path, 200))]
        asked += [Asked(path, f"{plain}?{query.format_map(known)}") for query in VARIANTS.get(path, ())]
    return [*asked, *_posted(known)]


def _value(path: str, parameter: str, known: Mapping[str, str]) -> str:
    name = SPECIAL.get(path, {}).get(parameter, parameter)
    if name not in known:
        raise LookupError(
            f"{path}: say in page_addresses.known_in what {{{parameter}}} is in a full database"
        )
    return known[name]


def _posted(known: Mapping[str, str]) -> Iterator[Asked]:
    """Answer what reads by POST, because what is typed stays out of URLs."""
    keys = ("patient_id", "accession_number", "control_id", "study_instance_uid", "series_instance_uid")
    texts = [known[key] for key in (*keys, "sop_instance_uid", "ae_title")]
    for text in (*texts, "ZZTEST", "zztest7, a", "PID", "A1", "nothing-is-called-this", "."):
        yield Asked("/find", "/find", "POST", form={"q": text})
        yield Asked("/api/find", "/api/find", "POST", body={"q": text})
    for text in (known["accession_number"], known["study_instance_uid"], "ZZTEST7", "nothing-is-called-this"):
        for page, call in (("/orders", "orders"), ("/images", "studies"), ("/worklist", "worklist")):
            yield Asked(page, page, "POST", form={"q": text})
            yield Asked(f"/api/{call}/search", f"/api/{call}/search", "POST", body={"q": text})
    device = known["ae_title"]
    for text in (known["accession_number"], "ZZTEST7"):
        would = f"/devices/{device}/would"
        path = "/devices/{ae_title:path}/would"
        yield Asked(path, would, "POST", EXPECTED[path], form={"order": text})
    audits: tuple[dict[str, str], ...] = (
        {"actor": "person7"},
        {"actor": "nobody"},
        {"patient": known["patient_id"]},
        {"order": known["order_id"]},
        {"study": known["study_instance_uid"]},
        {"what": "viewed"},
        {"what": "account added"},
        {"what": "viewed", "actor": "nobody"},
        {"since": known["six_days_ago"]},
        {"until": known["six_days_ago"]},
        {"since": known["six_days_ago"], "until": known["last_week"]},
    )
    for fields in audits:
        yield Asked("/admin/audit", "/admin/audit", "POST", form=fields)
    acts: tuple[dict[str, str], ...] = (
        {"act": "retry", "state": "DEAD"},
        {"act": "retarget", "to": "PACS1", "state": "DEAD", "destination": "Chest-AI"},
        {"act": "cancel", "destination": "PACS1"},
    )
    for act in acts:
        yield Asked("/api/deliveries/preview", "/api/deliveries/preview", "POST", body=act)
