"""Collectors of audit messages as they are wired: what the sweeper sends, and how it stands with each."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from broker.domain.audit_message import AuditSource
from broker.domain.wording import counted
from broker.notices.audit_collector import SyslogCollector
from broker.workflow.audit_collectors import CollectorLine, ConfiguredCollector, collector_lines
from broker.workflow.audit_export import TrailExport
from broker.workflow.audit_participants import Node, Ourselves
from broker.workflow.overview_port import COLLECTOR, Resource
from broker.workflow.sweep import Chore

if TYPE_CHECKING:
    from broker.bootstrap import Broker

SEND_S = 5.0


def collector_chores(broker: Broker) -> Sequence[Chore]:
    """Answer what the sweeper does for each collector: one that hangs keeps nobody else waiting."""
    return [
        Chore(f"send audit messages to {export.name}", SEND_S, export.turn) for export in _exports(broker)
    ]


def _exports(broker: Broker) -> Sequence[TrailExport]:
    site = broker.loaded.site
    source = AuditSource(f"{site.site.ae_title}@{socket.gethostname()}", site.site.name)
    return [
        TrailExport(
            broker.units_of_work,
            broker.reports,
            broker.clock,
            SyslogCollector(settings, source, folder=broker.data_dir),
            ourselves(broker),
            owner=f"{socket.gethostname()}:{os.getpid()}",
        )
        for settings in site.audit.collectors
    ]


def ourselves(broker: Broker) -> Ourselves:
    """Answer how audit messages name this broker and its destinations."""
    site = broker.loaded.site
    nodes = {}
    for name, settings in site.destinations.items():
        options = settings.options
        address = str(options.get("host") or options.get("path") or "")
        nodes[name] = Node(address, str(options.get("called_ae_title") or ""))
    public = (site.site.public_url or "").rstrip("/")
    return Ourselves(
        socket.gethostname(),
        site.site.ae_title,
        f"{public}/admin/audit" if public else "urn:worklist-broker:audit",
        nodes,
    )


def collectors(broker: Broker) -> Sequence[CollectorLine]:
    """Answer how it stands with each collector of the site file. Raises DatabaseUnavailable."""
    configured = [
        ConfiguredCollector(one.name, f"{one.host}:{one.port}", one.protocol)
        for one in broker.loaded.site.audit.collectors
    ]
    return collector_lines(broker.reports, configured)


def collector_resources(broker: Broker) -> Sequence[Resource]:
    """Say of each collector whether it is told what happens; only what lasts is a trouble."""
    found = []
    now = broker.clock.now()
    for line in collectors(broker):
        at = line.handed_over_at.astimezone(broker.zone).strftime("%H:%M:%S") if line.handed_over_at else ""
        waits = f"{counted(line.waiting, 'event')} wait{'s' if line.waiting == 1 else ''}"
        said = [waits if line.waiting else "nothing waits"]
        said += [f"last told at {at}"] if at else []
        said += [line.problem] if line.problem else []
        is_away = line.is_away(broker.loaded.site.audit.away, now=now)
        advice = "Nothing is lost: it is sent what it missed. Start it, or correct `audit.collectors`."
        name = f"{COLLECTOR}{line.name}"
        found.append(Resource(name, "away" if is_away else "up", "; ".join(said), advice if is_away else ""))
    return found
