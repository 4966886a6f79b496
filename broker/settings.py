"""The site file: one YAML 1.2 document, strictly typed; every problem is named as file:line:col: key: problem.

Secrets and addresses come from the environment (`BROKER_DATABASE_URL`, `BROKER_REDIS_URL`, …), and any key of
the file may be overridden there (`BROKER_LISTEN__DICOM__PORT=104`). Read once, frozen, handed out in pieces.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from broker.domain.character_sets import canonical_dicom_terms
from broker.domain.values import AETitle
from broker.errors import ConfigurationError

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_LONGEST_S = 3650 * 86400
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(value: object) -> timedelta:
    """Read `30s`, `5m`, `4h`, `1d`, `250ms` or `1h30m`. Raises ValueError."""
    if isinstance(value, timedelta):
        return value
    text = str(value).strip()
    parts = _DURATION.findall(text)
    if not parts or "".join(f"{n}{u}" for n, u in parts) != text.replace(" ", ""):
        raise ValueError(f"{text!r} is not a duration such as 30s, 5m or 24h")
    seconds = sum(float(n) * _UNITS_S[u] for n, u in parts)
    if seconds > _LONGEST_S:
        raise ValueError(f"{text!r} is longer than {_LONGEST_S // 86400} days")
    return timedelta(seconds=seconds)


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("must be longer than 0s")
    return value


def _ae_title(value: str) -> str:
    return str(AETitle(value))


def _character_set(value: str) -> str:
    if canonical_dicom_terms(value.split("\\")) is None:
        raise ValueError(
            f"{value!r} is not a value of Specific Character Set (0008,0005), such as ISO_IR 192"
        )
    return value


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ValueError(f"{value!r} is not a time zone such as Europe/Berlin") from error
    return value


def _networks(value: tuple[str, ...]) -> tuple[str, ...]:
    for network in value:
        try:
            ipaddress.ip_network(network, strict=False)
        except ValueError as error:
            raise ValueError(f"{network!r} is not an address or a network such as 10.1.0.0/16") from error
    return value


def _one_or_many(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _web_address(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"{value!r} is not an address such as https://host/path")
    if parts.username or parts.password:
        raise ValueError("holds a password; secrets live in the environment")
    return value


Duration = Annotated[timedelta, BeforeValidator(parse_duration)]
PositiveDuration = Annotated[timedelta, BeforeValidator(parse_duration), AfterValidator(_positive)]
AETitleText = Annotated[str, AfterValidator(_ae_title)]
CharacterSet = Annotated[str, AfterValidator(_character_set)]
Port = Annotated[int, Field(ge=0, le=65535, strict=True)]
Names = Annotated[tuple[str, ...], BeforeValidator(_one_or_many)]
Networks = Annotated[tuple[str, ...], BeforeValidator(_one_or_many), AfterValidator(_networks)]
WebAddress = Annotated[str, AfterValidator(_web_address)]
Slug = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SiteIdentity(_Model):
    """Who we are."""

    name: str = "Unnamed site"
    """Shown on every page."""
    timezone: Annotated[str, AfterValidator(_zone)] = "UTC"
    """Worklist dates and times are this zone's wall clock."""
    ae_title: AETitleText = "BROKER"
    """Ours: what scanners call and destinations see."""
    public_url: WebAddress | None = None
    """Where people reach the pages; links in alerts begin with it."""
    character_set: CharacterSet = "ISO_IR 100"
    """(0008,0005) of worklist answers where neither the device's profile nor the query says otherwise."""


class Tls(_Model):
    """Certificates of a listener."""

    certificate: Path
    """PEM file."""
    key: Path
    """PEM file of its private key."""
    client_ca: Path | None = None
    """Given: clients must show a certificate signed by it."""


class Hl7Listener(_Model):
    """The MLLP port."""

    host: str = "127.0.0.1"
    port: Port = 2575
    """Where RIS and HIS connect."""
    tls: Tls | None = None
    allow: Networks = ()
    """Addresses or networks that may connect; empty: all that reach the port."""
    default_character_set: str = "8859/1"
    """When MSH-18 is empty."""


class DicomListener(_Model):
    """A DICOM port."""

    host: str = "127.0.0.1"
    port: Port = 11112
    """Worklist, MPPS, verification, and images unless `listen.storage` is there."""
    accept_unknown_devices: Literal["never", "loopback", "always"] = "loopback"
    """Whether calling AE titles that are not under `devices` are let in."""
    processes: Annotated[int, Field(ge=1, le=64, strict=True)] = 1
    """How many processes share the port."""
    tls: Tls | None = None


class StorageListener(_Model):
    """Images on a port, and in processes, of their own."""

    host: str = "127.0.0.1"
    port: Port = 11113
    """Images only."""
    processes: Annotated[int, Field(ge=1, le=64, strict=True)] = 1
    tls: Tls | None = None


class Proxy(_Model):
    """A proxy in front of the pages that ends TLS."""

    trusted: Annotated[Networks, Field(min_length=1)]
    """Addresses or networks it comes from; only from these are X-Forwarded-For and -Proto believed."""


class WebListener(_Model):
    """The dashboard."""

    host: str = "127.0.0.1"
    port: Port = 8080
    """The pages and the JSON API."""
    tls: Tls | None = None
    behind_proxy: Proxy | None = None

    @model_validator(mode="after")
    def _passwords_stay_private(self) -> Self:
        if self.tls is not None and self.behind_proxy is not None:
            raise ValueError("`tls` or `behind_proxy`, not both: who ends TLS, we or the proxy?")
        is_loopback = self.host in {"127.0.0.1", "::1", "localhost"}
        if not is_loopback and self.tls is None and self.behind_proxy is None:
            raise ValueError(
                "beyond loopback passwords need TLS: give `tls: { certificate, key }`, or say that a proxy ends"
                " TLS with `behind_proxy: { trusted: [its address] }`"
            )
        return self


class Listen(_Model):
    """The ports."""

    hl7: Hl7Listener = Hl7Listener()
    dicom: DicomListener = DicomListener()
    storage: StorageListener | None = None
    web: WebListener = WebListener()

    @model_validator(mode="after")
    def _ports_are_their_own(self) -> Self:
        taken: list[tuple[str, str, int]] = []
        for name in ("hl7", "dicom", "storage", "web"):
            listener = getattr(self, name)
            if listener is None or listener.port == 0:
                continue
            for other, host, port in taken:
                is_same_host = host == listener.host or {host, listener.host} & {"0.0.0.0", "::"}
                if port == listener.port and is_same_host:
                    raise ValueError(f"{other} and {name} cannot share port {port}")
            taken.append((name, listener.host, listener.port))
        return self


class Device(_Model):
    """Who may talk to us, and how it likes to be spoken to."""

    ae_title: AETitleText
    """What it calls itself."""
    host: str | None = None
    """Address or network it calls from; absent: any."""
    modality: Names = ()
    """What it makes, one code or a list: orders without a station are offered to it."""
    character_set: CharacterSet | None = None
    """(0008,0005) it is answered in."""
    contact: str = ""
    """Whom to call; shown to people."""
    max_results: Annotated[int, Field(ge=1)] | None = None
    """Its console breaks above so many answers: the first of the list are sent, the cut is recorded."""


class Retry(_Model):
    """When a failed delivery is tried again."""

    first: PositiveDuration = timedelta(seconds=30)
    """Before the second try; doubles."""
    cap: PositiveDuration = timedelta(minutes=30)
    """The longest wait between tries."""
    life: PositiveDuration | None = None
    """Absent: by kind (print 4 h, others 24 h); safekeeping destinations never give up."""


class DestinationSettings(BaseModel):
    """What every destination has; the other keys belong to its kind."""

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str
    """`dicom`, `print`, `folder`, `mllp`; the kind has keys of its own, below."""
    safekeeping: bool = False
    """An archive: it never stops being tried, and gets objects again that are pushed again."""
    retry: Retry = Retry()
    concurrency: Annotated[int, Field(ge=1, le=64, strict=True)] = 2
    """Deliveries at once, over all workers."""
    contact: str = ""

    @property
    def options(self) -> dict[str, Any]:
        """The keys that belong to the kind."""
        return dict(self.model_extra or {})


class Feedback(_Model):
    """Status back to the RIS."""

    destination: str
    """One of kind `mllp`."""
    message: Literal["ORM^O01", "OMG^O19"] = "ORM^O01"
    """What is sent."""


class EmailChannel(_Model):
    """Alerts by e-mail; the password is BROKER_ALERTS_EMAIL_PASSWORD."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    host: str
    port: Port = 587
    starttls: bool = True
    """Refuse to send in the clear."""
    ca: Path | None = None
    """PEM file of who signs the server's certificate; absent: whom the system trusts."""
    user: str | None = None
    sender: Annotated[str, Field(alias="from", pattern=r"^[^\s@<>,]+@[^\s@<>,]+$")]
    to: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[^\s@<>,]+@[^\s@<>,]+$")], ...],
        BeforeValidator(_one_or_many),
        Field(min_length=1),
    ]


class WebhookChannel(_Model):
    """Alerts as JSON; signed with BROKER_ALERTS_WEBHOOK_SECRET."""

    url: WebAddress
    ca: Path | None = None
    """PEM file of who signs the server's certificate; absent: whom the system trusts."""


class SyslogTarget(_Model):
    """A syslog collector."""

    host: str
    port: Port = 6514
    protocol: Literal["udp", "tcp", "tls"] = "tls"
    ca: Path | None = None
    """PEM file of who signs the collector's certificate; absent: whom the system trusts."""
    certificate: Path | None = None
    """Ours, where the collector asks for one."""
    key: Path | None = None


class AuditCollector(SyslogTarget):
    """Where audit messages are sent (PS3.15 A.6, A.7)."""

    name: Slug
    """What its place in the trail is kept under."""
    protocol: Literal["tls", "udp"] = "tls"
    """`udp` is readable on the way, and what is lost on it is not noticed."""


class AuditTrail(_Model):
    """Audit messages of DICOM (PS3.15 A.5) to those who collect them."""

    collectors: Annotated[tuple[AuditCollector, ...], Field(max_length=8)] = ()
    """Each is sent everything, from when it is first listed."""
    away: PositiveDuration = timedelta(minutes=15)
    """A collector cannot be reached for so long: an alert."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [collector.name for collector in self.collectors]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"collector {name} is listed twice")
        return self


class Alerts(_Model):
    """When somebody is told, and how."""

    email: EmailChannel | None = None
    webhook: WebhookChannel | None = None
    syslog: SyslogTarget | None = None
    repeat: PositiveDuration = timedelta(hours=4)
    """Told again after this unless somebody has it in hand."""
    backlog: PositiveDuration = timedelta(minutes=30)
    """A delivery that could be sent waits so long."""
    urgent: PositiveDuration = timedelta(minutes=10)
    """The same of a STAT order."""
    paused: PositiveDuration = timedelta(hours=1)
    """A destination a person has paused stays so, and something waits for it."""


class Captures(_Model):
    """What devices and senders say, captured for a time by an administrator."""

    keep: PositiveDuration = timedelta(hours=24)
    """So long after its end a capture is removed."""
    max_bytes: Annotated[int, Field(ge=65536)] = 256 * 1024 * 1024
    """Of one capture; what comes after is left out."""


class Metrics(_Model):
    """Numbers for Prometheus."""

    open: bool = False
    """Answer /metrics without a token; only while the pages are on loopback."""


class Completion(_Model):
    """When a series or a study counts as complete."""

    series_quiet: Duration = timedelta(seconds=30)
    """No image of the series for so long."""
    study_quiet: Duration = timedelta(minutes=5)
    """No image of the study for so long."""
    cap: Duration = timedelta(hours=4)
    """Sent after this even if images keep coming."""


class Probe(_Model):
    """A synthetic exam through every hop, again and again."""

    every: PositiveDuration = timedelta(minutes=15)
    """How often."""
    destination: str | None = None
    """Where its image goes, one of `destinations` that keeps nothing; absent: a folder of its own."""


class DicomLimits(_Model):
    """What a DICOM peer may use of us."""

    max_associations: Annotated[int, Field(ge=1)] = 512
    """At once, per process."""
    max_associations_per_host: Annotated[int, Field(ge=1)] = 8
    """Of addresses that are not listed; loopback is exempt."""
    max_unassociated: Annotated[int, Field(ge=1)] = 16
    """Connections that have not asked for an association yet."""
    first_pdu_timeout: PositiveDuration = timedelta(seconds=5)
    """From connecting to the association request."""
    pdu_timeout: PositiveDuration = timedelta(seconds=30)
    """From the first to the last byte of a PDU."""
    idle_timeout: PositiveDuration = timedelta(minutes=5)
    """Of an association without storage."""
    storage_idle_timeout: PositiveDuration = timedelta(minutes=15)
    """Of one with storage: scanners pause."""
    send_timeout: PositiveDuration = timedelta(seconds=30)
    """Of a peer that does not read."""


class Hl7Limits(_Model):
    """What an HL7 peer may use of us."""

    max_connections: Annotated[int, Field(ge=1)] = 256
    """At once."""
    max_connections_per_host: Annotated[int, Field(ge=1)] = 8
    """Of hosts that are not on `listen.hl7.allow`; loopback is exempt."""
    max_message_bytes: Annotated[int, Field(ge=1024)] = 8 * 1024 * 1024
    """Larger ones are answered AR 207."""
    frame_timeout: PositiveDuration = timedelta(seconds=30)
    """From the first to the last byte of a message."""


class StorageLimits(_Model):
    """How full the disk may get, and how long a resend waits before it is taken as one."""

    free_reserve_bytes: Annotated[int, Field(ge=0)] = 2 * 1024**3
    """Disk space that is never used; the larger of this and the next."""
    free_reserve_percent: Annotated[float, Field(ge=0, le=50)] = 5.0
    """The same as a share of the disk."""
    resend_after: Duration = timedelta(minutes=10)
    """An object pushed again later than this goes to the archives again."""
    accept_unknown_storage: bool = False
    """Take private SOP classes as images too."""


class Limits(_Model):
    """Bounds on everything a peer controls."""

    dicom: DicomLimits = DicomLimits()
    hl7: Hl7Limits = Hl7Limits()
    storage: StorageLimits = StorageLimits()


class Site(_Model):
    """The whole site file."""

    site: SiteIdentity = SiteIdentity()
    listen: Listen = Listen()
    devices: tuple[Device, ...] = ()
    destinations: Mapping[Slug, DestinationSettings] = {}
    feedback: Feedback | None = None
    completion: Completion = Completion()
    probe: Probe | None = None
    routes: tuple[dict[str, Any], ...] = ()
    """See rules.md."""
    limits: Limits = Limits()
    alerts: Alerts = Alerts()
    audit: AuditTrail = AuditTrail()
    metrics: Metrics = Metrics()
    captures: Captures = Captures()

    @model_validator(mode="after")
    def _metrics_stay_private(self) -> Self:
        if self.metrics.open and self.listen.web.host not in {"127.0.0.1", "::1", "localhost"}:
            raise ValueError(
                "metrics.open needs the pages on loopback; give Prometheus a token of role viewer"
            )
        return self

    @model_validator(mode="after")
    def _devices_are_unique(self) -> Self:
        seen: set[str] = set()
        for device in self.devices:
            if device.ae_title in seen:
                raise ValueError(f"device {device.ae_title} is listed twice")
            seen.add(device.ae_title)
        return self


_SECRETS = ("database_url", "redis_url", "secret_key", "alerts_email_password", "alerts_webhook_secret")


@dataclass(frozen=True, slots=True)
class Environment:
    """What only the environment says: addresses of services and secrets."""

    database_url: str | None
    redis_url: str | None
    secret_key: str | None
    accept_data_loss: bool = False
    alerts_email_password: str | None = None
    alerts_webhook_secret: str | None = None

    def __repr__(self) -> str:
        """Show which are set, never what they are."""
        known = [n for n in _SECRETS if getattr(self, n)]
        return f"Environment(set={known})"


OptionsOf = Callable[[str], type[BaseModel] | None]
"""Kind of destination -> the model of its own keys; None: no such kind."""

RESERVED_VARIABLES = frozenset(
    {
        "BROKER_CONFIG",
        "BROKER_DATA_DIR",
        "BROKER_DATABASE_URL",
        "BROKER_REDIS_URL",
        "BROKER_SECRET_KEY",
        "BROKER_ACCEPT_DATA_LOSS",
        "BROKER_LOG_LEVEL",
        "BROKER_ALERTS_EMAIL_PASSWORD",
        "BROKER_ALERTS_WEBHOOK_SECRET",
    }
)


def read_environment(environ: Mapping[str, str]) -> Environment:
    """Read addresses and secrets; `NAME_FILE` names a file that holds the value (container secrets).

    Raises ConfigurationError when such a file cannot be read.
    """

    def value(name: str) -> str | None:
        if file := environ.get(f"{name}_FILE"):
            try:
                return Path(file).read_text(encoding="utf-8").strip()
            except OSError as error:
                raise ConfigurationError(f"{name}_FILE: cannot read {file}: {error.strerror}") from error
        return environ.get(name) or None

    return Environment(
        database_url=value("BROKER_DATABASE_URL"),
        redis_url=value("BROKER_REDIS_URL"),
        secret_key=value("BROKER_SECRET_KEY"),
        alerts_email_password=value("BROKER_ALERTS_EMAIL_PASSWORD"),
        alerts_webhook_secret=value("BROKER_ALERTS_WEBHOOK_SECRET"),
        accept_data_loss=environ.get("BROKER_ACCEPT_DATA_LOSS", "") == "yes",
    )
