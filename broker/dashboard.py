"""What the pages and the command line ask of a wired broker: is everything serving, and why did it go there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from ruamel.yaml import YAML

from broker import __version__
from broker.bootstrap import Broker
from broker.certificates import certificates
from broker.device_facts import known_devices, passport, seen_by
from broker.dicom.objects.file_header import scan_file
from broker.dicom.objects.header import ScanPlan, known_keyword
from broker.domain.facts import order_facts, routing_facts
from broker.domain.rules import Routes, compile_routes
from broker.errors import OutOfResources
from broker.insight import BrokerInsight
from broker.probe import Prober
from broker.probe_now import ProbeNow
from broker.prometheus import Metrics
from broker.resources import Resources
from broker.roles import reachable
from broker.settings import Site
from broker.support_bundle import support_bundle
from broker.web.ports import Dashboard, DestinationFacts, Front, Pace
from broker.workflow import explain
from broker.workflow.explain import ExplainedRoute
from broker.workflow.images_port import Instance, InstanceState
from broker.workflow.overview_port import HealthPart
from broker.workflow.probe_port import ProbeRun
from broker.workflow.reconciliation import join_order

STALE = timedelta(seconds=20)
"""A role beats every 5 s; silent for longer, it does not serve."""
_SECRET = re.compile(r"password|passphrase|secret|token|credential|^key$|api_key", re.IGNORECASE)
_ADDRESS_SECRET = re.compile(r"://[^/@\s]*@")
LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})


def dashboard(broker: Broker) -> Dashboard:
    """Answer what the web application is built with."""
    web = broker.loaded.site.listen.web
    hosts = LOOPBACK_NAMES if web.host in LOOPBACK_NAMES else None
    resources = Resources(broker).read
    return Dashboard(
        reports=broker.reports,
        actions=broker.actions,
        health=lambda: health(broker),
        explain=lambda study: explain_study(broker, study),
        insight=BrokerInsight(broker),
        destination=lambda name: destination_facts(broker, name),
        clock=broker.clock,
        zone=broker.zone,
        site_name=broker.loaded.site.site.name,
        hosts=hosts,
        version=__version__,
        known_devices=lambda: known_devices(broker),
        seen_by=lambda ae_title, asked: seen_by(broker, ae_title, asked),
        passport=lambda ae_title: passport(broker, ae_title),
        resources=resources,
        access=broker.access,
        alerts=broker.alerts,
        captures=broker.captures,
        metrics=Metrics(
            broker,
            health=lambda: health(broker),
            resources=resources,
            certificates=lambda: certificates(broker),
            collectors=broker.access.collectors,
        ).text,
        metrics_open=broker.loaded.site.metrics.open,
        front=Front(tls=web.tls is not None, trusted=web.behind_proxy.trusted if web.behind_proxy else ()),
        pace=Pace(per_s=20.0, burst=60),
        routes=broker.loaded.routes,
        try_study=lambda study: try_study(broker, study),
        probe=lambda actor: probe(broker, actor=actor),
        start_probe=ProbeNow(Prober(broker)).start,
        configuration=broker.configurations,
        certificates=lambda: certificates(broker),
        support_bundle=lambda actor: support_bundle(broker, actor=actor),
    )


def destination_facts(broker: Broker, name: str) -> DestinationFacts | None:
    """Answer what is in force for a destination, defaults included and secrets left out."""
    settings = broker.loaded.site.destinations.get(name)
    if settings is None:
        return None
    entry = broker.destination(name)
    options = broker.destination_options(name)
    values = {
        **_flat(options.model_dump(mode="json")),
        "concurrency": str(entry.concurrency),
        "safekeeping": "yes" if entry.safekeeping else "no",
        "retry.first": _span(entry.retry.first),
        "retry.cap": _span(entry.retry.cap),
        "retry.life": "for ever" if entry.retry.life is None else _span(entry.retry.life),
    }
    return DestinationFacts(name, settings.kind, settings.contact, values)


def _flat(values: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        name = prefix + key
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{name}.")
        elif _SECRET.search(key) and value not in (None, ""):
            flat[name] = "set, not shown"
        elif isinstance(value, list):
            flat[name] = ", ".join(str(part) for part in value) or "none"
        else:
            flat[name] = _said(value)
    return flat


def _said(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return _ADDRESS_SECRET.sub("://…@", str(value))


def _span(span: timedelta) -> str:
    seconds = int(span.total_seconds())
    for name, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds and seconds % size == 0:
            return f"{seconds // size} {name}"
    return f"{seconds} s"


def web_url(site: Site) -> str:
    """Answer the address of the pages as a person on this machine types it."""
    web = site.listen.web
    host = reachable(web.host)
    return f"{'https' if web.tls else 'http'}://{f'[{host}]' if ':' in host else host}:{web.port}"


def first_run_link(broker: Broker) -> str | None:
    """Answer the link under which the first account is made; None when there is one.

    The token stands behind #: a browser keeps it to itself.
    """
    token = broker.access.accounts.first_run_token()
    return None if token is None else f"{web_url(broker.loaded.site)}/first-run#{token}"


def expected_roles(broker: Broker) -> tuple[str, ...]:
    """Answer the roles a whole broker has."""
    storage = ("storage",) if broker.loaded.site.listen.storage is not None else ()
    return ("hl7", "dicom", *storage, "worker", "sweep", "web")


def health(broker: Broker) -> list[HealthPart]:
    """Answer every role's last proof; a role with several processes is well when all of them are."""
    now = broker.clock.now()
    try:
        lines = broker.reports.roles()
    except OutOfResources as error:
        return [HealthPart("database", ok=False, detail=str(error))]
    has_room = broker.files.has_room()
    room = "above the reserve" if has_room else "the reserve is reached: images are refused (limits.storage)"
    parts = [HealthPart("disk reserve", ok=has_room, detail=room)]
    for role in expected_roles(broker):
        fresh = [line for line in lines if line.role == role and now - line.beat_at < STALE]
        failing = [line for line in fresh if not line.details.get("ok")]
        shown = (failing or fresh)[:1]
        parts.append(
            HealthPart(
                name=role,
                ok=bool(fresh) and not failing,
                detail=str(shown[0].details.get("detail", "")) if shown else "no sign of life",
                beat_at=max((line.beat_at for line in lines if line.role == role), default=None),
            )
        )
    return parts


def explain_study(broker: Broker, study_instance_uid: str) -> Sequence[ExplainedRoute]:
    """Answer why each route did or did not take the images of a study."""
    with broker.units_of_work() as uow:
        return explain.explain_study(uow, study_instance_uid, routes_of=_routes_of)


def try_study(broker: Broker, study_instance_uid: str) -> Sequence[ExplainedRoute]:
    """Answer what the rules in force would decide about what has come of a study."""
    with broker.units_of_work() as uow:
        return explain.try_study(uow, study_instance_uid, routes=broker.loaded.routes)


def probe(broker: Broker, *, actor: str) -> ProbeRun:
    """Send a synthetic exam through every hop now."""
    run = Prober(broker).run(actor=actor)
    assert run is not None  # without an interval there is always one
    return run


def explain_file(broker: Broker, path: Path) -> Sequence[ExplainedRoute]:
    """Answer what would be decided about a file if its sender pushed it now. Raises InvalidValue."""
    routes = broker.loaded.routes
    found = scan_file(path, ScanPlan.of(routes.image_keys))
    header, now = found.header, broker.clock.now()
    instance = Instance(
        id=0,
        sop_instance_uid=found.sop_instance_uid,
        version=1,
        sop_class_uid=found.sop_class_uid,
        transfer_syntax_uid=found.transfer_syntax_uid,
        study_instance_uid=header.first("StudyInstanceUID") or "",
        series_instance_uid=header.first("SeriesInstanceUID") or "",
        path=str(path),
        size_bytes=path.stat().st_size,
        data_set_offset=0,
        sha256=None,
        facts=header.values,
        calling_ae_title=found.source_ae_title,
        called_ae_title=broker.loaded.site.site.ae_title,
        peer="",
        state=InstanceState.RECEIVED,
        received_at=now,
        last_received_at=now,
        patient_id=header.first("PatientID"),
        accession_number=header.first("AccessionNumber"),
        modality=header.first("Modality"),
    )
    with broker.units_of_work() as uow:
        joined = join_order(uow, instance)
    facts = routing_facts(
        header.values,
        calling_ae_title=instance.calling_ae_title,
        order=order_facts(joined.views, keys=routes.order_keys),
    )
    return explain.explain_facts(routes, facts)


def _routes_of(body: str) -> Routes:
    """Compile the routes of a stored configuration version."""
    raw = YAML(typ="safe", pure=True).load(body) or {}
    return compile_routes(raw.get("routes") or [], known_keyword=known_keyword)
