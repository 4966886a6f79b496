"""What the pages need beside the reports: acting on deliveries, explaining routes, and the health of the roles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import tzinfo
from typing import Protocol

from broker.domain.rules import Routes
from broker.errors import Conflict
from broker.workflow.access import Access
from broker.workflow.alert_conditions import Certificate
from broker.workflow.alert_operations import AlertOperations
from broker.workflow.alerts_port import AlertReports
from broker.workflow.bulk import Wanted
from broker.workflow.bulk_port import BulkOperation
from broker.workflow.captures import CaptureOperations
from broker.workflow.captures_port import CaptureReports
from broker.workflow.clock import Clock
from broker.workflow.configuration import ConfigurationKeeper
from broker.workflow.device_reports import DeviceReports
from broker.workflow.devices import KnownDevice, Welcome
from broker.workflow.devices_port import Admission
from broker.workflow.entries import Asked, EntryReports, Sight
from broker.workflow.explain import ExplainedRoute
from broker.workflow.find_port import FindReports
from broker.workflow.holds import Hold
from broker.workflow.idempotency import RequestKey, Requests
from broker.workflow.message_reports import MessageBoard, ReadAgain, SegmentPart
from broker.workflow.operations import Asked as AskedAct
from broker.workflow.operations import Target
from broker.workflow.overview_port import HealthPart, Resource
from broker.workflow.passport import Passport
from broker.workflow.preview import Preview
from broker.workflow.probe_port import ProbeReports, ProbeRun
from broker.workflow.reports_port import Reports
from broker.workflow.rules_port import RuleReports
from broker.workflow.worklist_board import BoardReports


class PageReports(
    Reports,
    AlertReports,
    FindReports,
    EntryReports,
    MessageBoard,
    RuleReports,
    DeviceReports,
    ProbeReports,
    BoardReports,
    CaptureReports,
    Protocol,
):
    """Everything the pages read."""


class Actions(Protocol):
    """What a person may do here. Each raises a BrokerError, and then nothing has changed."""

    @property
    def requests(self) -> Requests:
        """Requests that brought a key."""
        ...

    def act(self, delivery: int, asked: AskedAct) -> bool:
        """Do an act to one delivery; False when there was nothing to change."""
        ...

    def target(self, name: str) -> Target:
        """Answer a destination to send to instead. Raises NotFound."""
        ...

    def preview(self, wanted: Wanted) -> Preview:
        """Tell what an act on many would come to."""
        ...

    def start(self, wanted: Wanted) -> int:
        """Write down an act on many, answer its id."""
        ...

    def advance(self, operation: int) -> BulkOperation:
        """Work off one slice of an act on many now; the sweep does the rest."""
        ...

    def stop(self, operation: int, *, actor: str, key: RequestKey | None = None) -> bool: ...
    def pause(self, destination: str, hold: Hold) -> bool: ...
    def drain(self, destination: str, hold: Hold) -> bool: ...
    def resume(
        self, destination: str, *, actor: str, reason: str = "", key: RequestKey | None = None
    ) -> bool: ...
    def admit(self, welcome: Welcome) -> Admission:
        """Let a device in for a time."""
        ...

    def end_admission(self, admission: int, *, actor: str, key: RequestKey | None = None) -> bool: ...
    def test(self, destination: str, *, actor: str) -> bool:
        """Talk to a destination off this thread; False when a test of it runs already."""
        ...


@dataclass(frozen=True, slots=True)
class DestinationFacts:
    """What the site file says of a destination."""

    name: str
    kind: str
    contact: str
    settings: Mapping[str, str]
    """Everything in force, secrets left out."""


class Picture(Protocol):
    """A small picture of an image, not for diagnosis."""

    @property
    def media_type(self) -> str: ...
    @property
    def body(self) -> bytes: ...


class Insight(Protocol):
    """What is computed when somebody asks."""

    def devices(self) -> Sequence[str]:
        """Answer the AE titles of the configured devices."""
        ...

    def sights(self, order_id: int, ae_title: str, asked: Asked) -> Sequence[Sight]:
        """Say whether a device would be shown the steps of an order, asking like this now. Raises NotFound."""
        ...

    def dissect(self, raw: bytes, problems: Sequence[Mapping[str, str]] = ()) -> Sequence[SegmentPart]:
        """Take an HL7 message apart, with its problems at their places; empty when it is none."""
        ...

    def read_again(self, raw: bytes) -> ReadAgain:
        """Say what an HL7 message asks for with the mapping in force; nothing is changed."""
        ...

    def preview(self, instance_id: int) -> Picture:
        """Answer a small picture of an instance. Raises NotFound, or OutOfResources when too many wait."""
        ...


@dataclass(frozen=True, slots=True)
class Front:
    """How browsers reach the pages."""

    tls: bool = False
    """We end TLS ourselves."""
    trusted: tuple[str, ...] = ()
    """Networks of the proxy that ends TLS; its word on who asks is believed."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How many requests one address may send."""

    per_s: float
    burst: int


def _no_probe(actor: str) -> ProbeRun:
    raise Conflict(f"There is nothing here {actor} could probe.")


def _no_start(actor: str) -> int:
    raise Conflict(f"There is nothing here {actor} could probe.")


@dataclass(frozen=True, slots=True)
class Dashboard:
    """Everything the web application is built with."""

    reports: PageReports
    actions: Actions
    health: Callable[[], Sequence[HealthPart]]
    explain: Callable[[str], Sequence[ExplainedRoute]]
    """Study Instance UID -> verdicts."""
    insight: Insight
    destination: Callable[[str], DestinationFacts | None]
    """Name -> what the site file says; None: it is not in there any more."""
    clock: Clock
    zone: tzinfo
    site_name: str
    hosts: frozenset[str] | None
    """Host names the pages answer to (against DNS rebinding); None: any."""
    version: str
    access: Access
    """Accounts, sessions, tokens, and who looked at what."""
    alerts: AlertOperations
    """What people may do about alerts."""
    captures: CaptureOperations | None = None
    """What administrators may do with wire captures; None: there are none."""
    known_devices: Callable[[], Sequence[KnownDevice]] = tuple
    """Devices of the site file."""
    seen_by: Callable[[str, Asked], Sequence[int]] = lambda _, __: ()
    """AE title -> ids of the steps it would be shown now, asking like this."""
    passport: Callable[[str], Passport] | None = None
    """AE title -> what has to be typed into the device."""
    metrics: Callable[[], bytes] = bytes
    """Answers the text Prometheus reads."""
    metrics_open: bool = False
    """Nobody is asked who they are for it."""
    resources: Callable[[], Sequence[Resource]] = tuple
    """What the roles stand on: database, Redis, disk."""
    front: Front = Front()
    pace: Pace | None = None
    """None: no limit."""
    routes: Routes = field(default_factory=Routes)
    """The rules in force."""
    try_study: Callable[[str], Sequence[ExplainedRoute]] = lambda _: ()
    """Study Instance UID -> what the rules in force would decide now; empty: nothing has come of it."""
    probe: Callable[[str], ProbeRun] = _no_probe
    """Actor -> a synthetic exam, run now."""
    start_probe: Callable[[str], int] = _no_start
    """Actor -> the id of a synthetic exam that runs from now on."""
    configuration: ConfigurationKeeper | None = None
    """What people may do about the site file."""
    certificates: Callable[[], Sequence[Certificate]] = tuple
    """Those the site file names, with their ends."""
    support_bundle: Callable[[str], bytes] = lambda _: b""
    """Actor -> a tar.gz for who helps from afar."""
