"""The composition root: the only place where concrete classes meet.

`open_broker` gives a `Broker`: site file, database, file store, destinations, and the factories of what the
roles start. Nothing is listened on here and no peer is talked to.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta, tzinfo
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self
from zoneinfo import ZoneInfo

from pydantic import BaseModel
from sqlalchemy import Engine

from broker.actions import Actions
from broker.alerting import alert_operations, alerting_chores
from broker.capturing import capture_operations
from broker.collectors import collector_chores, collectors
from broker.configuration import SiteFileHere
from broker.db.backup import backup, restore
from broker.db.engine import SQLITE_FILE, assert_durable, database_url, open_engine
from broker.db.installation import uid_namespace
from broker.db.reports import SqlReports
from broker.db.revisions import is_current, newest_revision
from broker.db.seal import seal_events, verify_events
from broker.db.traffic import count_traffic, learn_rhythms, measure_images
from broker.db.unit_of_work import SqlUnitsOfWork
from broker.destinations import DestinationRegistry
from broker.domain.delivery import RetryPolicy
from broker.doorbell import Doorbell
from broker.errors import ConfigurationError, NotFound
from broker.failpoints import failpoint
from broker.files.first_run import FirstRunFile
from broker.files.store import DiskFileStore
from broker.queue import CeleryQueue, doorbell_path, redis_url
from broker.settings import DestinationSettings, Environment, read_environment
from broker.site_file import LoadedSite, load_site, parse_site
from broker.strays import remove_strays, remove_unfinished, restore_names
from broker.workflow.access import Access
from broker.workflow.accounts import AccountAdministration
from broker.workflow.alert_operations import AlertOperations
from broker.workflow.api_tokens import TokenAdministration
from broker.workflow.audit import Audit
from broker.workflow.captures import CaptureOperations
from broker.workflow.clock import SystemClock
from broker.workflow.completion import CompletionPolicy
from broker.workflow.configuration import ConfigurationKeeper
from broker.workflow.destinations_port import CheckResult, DestinationContext
from broker.workflow.devices import tidy_devices
from broker.workflow.idempotency import forget_keys
from broker.workflow.probe_port import PROBE_DESTINATION
from broker.workflow.routing import Purpose, RoutedDestination, RoutingPolicy, purpose_of, route
from broker.workflow.sending import DestinationEntry
from broker.workflow.sign_in import SignIn
from broker.workflow.sweep import Chore
from broker.workflow.wake_ups import TaskQueue

_LIVES = {"print": timedelta(hours=4)}
_LIFE = timedelta(hours=24)
_PROBE_FOLDER = DestinationSettings.model_validate({"kind": "folder", "path": "probe", "keep_free_mib": 64})
BULK_SLICE_S = 30.0
"""How long operations on many deliveries are worked off before the sweep looks again."""
IMAGES = "images"
"""Folder of received objects in the data directory."""


def read_site(config: Path, environ: Mapping[str, str]) -> LoadedSite:
    """Read and check a site file. Raises SiteFileError with every problem."""
    from broker.dicom.objects.header import known_keyword

    registry = DestinationRegistry.from_entry_points()
    return load_site(config, environ=environ, options_of=registry.options_of, known_keyword=known_keyword)


def check_site(config: Path, body: str) -> LoadedSite:
    """Check what is to stand in a site file, as the start would. Raises SiteFileError with every problem."""
    from broker.dicom.objects.header import known_keyword

    registry = DestinationRegistry.from_entry_points()
    return parse_site(
        config, body, environ=os.environ, options_of=registry.options_of, known_keyword=known_keyword
    )


_in_force: LoadedSite | None = None


def hold_site(loaded: LoadedSite) -> None:
    """Let every role forked from this process run on this very site file, whatever becomes of the one on disk."""
    global _in_force
    _in_force = loaded


def _site_for(config: Path) -> LoadedSite:
    if _in_force is not None and _in_force.path == config:
        return _in_force
    return read_site(config, os.environ)


class Broker:
    """The wired broker of one process. Use it as a context manager: leaving gives everything back."""

    def __init__(
        self, loaded: LoadedSite, environment: Environment, data_dir: Path, engine: Engine, queue: TaskQueue
    ) -> None:
        """Keep the parts; what only some roles need is built when first asked for."""
        site = loaded.site
        self.loaded = loaded
        self.environment = environment
        self.data_dir = data_dir
        self.engine = engine
        self.queue = queue
        self.zone: tzinfo = ZoneInfo(site.site.timezone)
        self.clock = SystemClock(self.zone)
        self.units_of_work = SqlUnitsOfWork(engine, queue, self.clock)
        self.reports = SqlReports(engine, destinations=site.destinations)
        self.actions = Actions(self)
        self._registry = DestinationRegistry.from_entry_points()
        self._entries: dict[str, DestinationEntry] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        """Answer the broker."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give back connections."""
        self.close()

    def close(self) -> None:
        """Give back connections; a closed broker is not used again."""
        for entry in self._entries.values():
            entry.plugin.close()
        files: DiskFileStore | None = self.__dict__.get("files")
        if files is not None:
            files.close()
        close = getattr(self.queue, "close", None)
        if close is not None:
            close()
        self.engine.dispose()

    def path(self, named: Path) -> Path:
        """Answer where a path of the site file lies: a relative one is relative to the data directory."""
        return self.data_dir / named

    # ---- destinations (workflow.sending.Wired) ----

    def destination_names(self) -> Iterable[str]:
        """Answer the names of the configured destinations."""
        return self.loaded.site.destinations.keys()

    def destination(self, name: str) -> DestinationEntry:
        """Answer a configured destination, built on first use. Raises NotFound."""
        with self._lock:
            if name not in self._entries:
                settings = self.loaded.site.destinations.get(name)
                if settings is None and name == PROBE_DESTINATION:
                    settings = _PROBE_FOLDER
                if settings is None:
                    raise NotFound(f"There is no destination {name}.")
                self._entries[name] = self._build(name, settings)
            return self._entries[name]

    def _build(self, name: str, settings: DestinationSettings) -> DestinationEntry:
        site = self.loaded.site
        context = DestinationContext(
            name=name,
            ae_title=site.site.ae_title,
            data_dir=self.data_dir,
            clock=self.clock,
            site_name=site.site.name,
        )
        plugin = self._registry.build(settings.kind, settings.options, context)
        retry = RetryPolicy(
            first=settings.retry.first,
            cap=settings.retry.cap,
            life=None if settings.safekeeping else settings.retry.life or _LIVES.get(settings.kind, _LIFE),
        )
        return DestinationEntry(
            name=name,
            kind=settings.kind,
            plugin=plugin,
            retry=retry,
            safekeeping=settings.safekeeping,
            concurrency=settings.concurrency,
        )

    def destination_options(self, name: str) -> BaseModel:
        """Answer the options of a configured destination with their defaults. Raises NotFound."""
        settings = self.loaded.site.destinations.get(name)
        if settings is None:
            raise NotFound(f"There is no destination {name}.")
        model = self._registry.options_of(settings.kind)
        assert model is not None  # the site file was checked when it was read
        return model.model_validate(settings.options)

    def check_destination(self, name: str) -> CheckResult:
        """Talk to a destination now."""
        return self.destination(name).plugin.check()

    # ---- configuration ----

    @cached_property
    def configurations(self) -> ConfigurationKeeper:
        """Answer what people may do about the site file."""
        here = SiteFileHere(
            self.loaded.path,
            self.data_dir,
            check_site,
            supervisor=os.getppid() if _in_force is self.loaded else None,
        )
        return ConfigurationKeeper(self.units_of_work, self.reports, here, self.clock)

    @cached_property
    def configuration(self) -> int:
        """Answer the version this process runs on; the first to ask writes down that it is in force."""
        return self.configurations.take_up(self.loaded.sha256, self.loaded.body)

    # ---- routing ----

    @cached_property
    def routing(self) -> RoutingPolicy:
        """Answer the routes in force."""
        site = self.loaded.site
        destinations = {
            name: RoutedDestination(
                name=name,
                kind=settings.kind,
                purpose=purpose_of(settings.kind, safekeeping=settings.safekeeping),
                ae_title=settings.options.get("called_ae_title"),
            )
            for name, settings in site.destinations.items()
        }
        completion = CompletionPolicy(
            series_quiet=site.completion.series_quiet,
            study_quiet=site.completion.study_quiet,
            cap=site.completion.cap,
        )
        stub = site.probe.destination if site.probe and site.probe.destination else None
        probe = (
            destinations[stub] if stub else RoutedDestination(PROBE_DESTINATION, "folder", Purpose.STORAGE)
        )
        return RoutingPolicy(self.loaded.routes, self.configuration, destinations, completion, probe)

    def route(self, instance_ids: Sequence[int]) -> object:
        """Decide where images go; those already decided are left."""
        policy = self.routing
        failpoint("route.before_claim")
        with self.units_of_work() as uow:
            uow.lock("routing")
            failpoint("route.after_claim")
            routed = route(uow, instance_ids, policy, now=self.clock.now())
            failpoint("route.before_commit")
            uow.commit()
        failpoint("route.after_commit")
        return routed

    def chores(self) -> Sequence[Chore]:
        """Answer what the sweeper does from time to time beside sweeping."""
        return (
            Chore("seal events", 5.0, lambda: seal_events(self.engine)),
            Chore("count traffic", 20.0, self._count_traffic),
            Chore("measure the images", 600.0, lambda: measure_images(self.engine, now=self.clock.now())),
            Chore("probe", 5.0, self._probe),
            Chore("remove synthetic exams", 60.0, self._tidy_probes),
            Chore("bulk operations", 0.0, self._work_off),
            Chore("tidy devices", 15.0, lambda: tidy_devices(self.units_of_work, self.clock)),
            Chore("tidy captures", 15.0, self.captures.tidy),
            Chore("forget idempotency keys", 3600.0, lambda: forget_keys(self.units_of_work, self.clock)),
            Chore("remove unfinished files", 600.0, self._remove_unfinished),
            Chore("remove stray files", 3600.0, self._remove_strays),
            *alerting_chores(self),
            *collector_chores(self),
        )

    def _count_traffic(self) -> None:
        now = self.clock.now()
        count_traffic(self.engine, now=now)
        learn_rhythms(self.engine, now=now, zone=self.zone)

    def _probe(self) -> None:
        from broker.probe import Prober

        if self.loaded.site.probe is not None:
            Prober(self).run(actor="broker", every=self.loaded.site.probe.every)

    def _tidy_probes(self) -> None:
        from broker.probe import Prober

        Prober(self).tidy()

    def _work_off(self) -> None:
        until_s = self.clock.monotonic() + BULK_SLICE_S
        self.actions.advance_all(is_over=lambda: self.clock.monotonic() >= until_s)

    def _remove_unfinished(self) -> None:
        remove_unfinished(self.files, self.units_of_work, now=self.clock.now())

    def _remove_strays(self) -> None:
        remove_strays(self.files, self.units_of_work, now=self.clock.now())

    def destination_kinds(self) -> Sequence[str]:
        """Answer the kinds that have a queue."""
        return self._registry.kinds()

    @property
    def redis_url(self) -> str:
        """Answer the address of Redis."""
        return redis_url(self.data_dir, self.environment.redis_url)

    @property
    def doorbell_path(self) -> Path:
        """Answer where the sweep of this host is rung at while Redis is away."""
        return doorbell_path(self.data_dir)

    # ---- access ----

    @cached_property
    def access(self) -> Access:
        """Answer accounts, sessions, tokens, and the record of who looked at what."""
        from broker.passwords import Argon2idHasher

        hasher = Argon2idHasher()
        return Access(
            accounts=AccountAdministration(
                self.units_of_work, self.reports, hasher, self.clock, first_run=FirstRunFile(self.data_dir)
            ),
            sign_in=SignIn(self.units_of_work, self.reports, hasher, self.clock),
            tokens=TokenAdministration(self.units_of_work, self.reports, self.clock),
            audit=Audit(self.units_of_work, self.clock),
            reports=self.reports,
            verify=lambda: verify_events(self.engine),
            collectors=lambda: collectors(self),
        )

    @cached_property
    def alerts(self) -> AlertOperations:
        """Answer what people may do about alerts."""
        return alert_operations(self)

    @cached_property
    def captures(self) -> CaptureOperations:
        """Answer what administrators do with wire captures."""
        return capture_operations(self)

    # ---- images ----

    @cached_property
    def files(self) -> DiskFileStore:
        """Answer the store of received objects."""
        from broker.dicom.network.pdu import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION

        limits = self.loaded.site.limits.storage
        store = DiskFileStore(
            self.data_dir / IMAGES,
            self.clock,
            implementation_class_uid=IMPLEMENTATION_CLASS_UID,
            implementation_version_name=IMPLEMENTATION_VERSION,
            free_reserve_bytes=limits.free_reserve_bytes,
            free_reserve_percent=limits.free_reserve_percent,
        )
        store.prepare()
        restore_names(store, self.units_of_work)  # before anybody reads or receives
        return store


def open_broker(config: Path | None = None, data_dir: Path | None = None, *, role: str = "cli") -> Broker:
    """Open the broker for one process. Raises SiteFileError, ConfigurationError or DatabaseUnavailable.

    Without arguments: `$BROKER_CONFIG` and `$BROKER_DATA_DIR`, as a Celery worker is started.
    """
    config = config or Path(os.environ.get("BROKER_CONFIG", "config/broker.yaml"))
    data_dir = (data_dir or Path(os.environ.get("BROKER_DATA_DIR", "data"))).absolute()
    loaded = _site_for(config)
    environment = read_environment(os.environ)
    if role == "cli":
        _must_have_run(data_dir, environment)
    data_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
    engine = open_engine(database_url(data_dir, environment.database_url))
    if role != "cli":
        assert_durable(engine, accept_data_loss=environment.accept_data_loss)
    _must_be_current(engine)
    bell = Doorbell(doorbell_path(data_dir))
    queue = CeleryQueue(redis_url(data_dir, environment.redis_url), ring=bell.ring)
    return Broker(loaded, environment, data_dir, engine, queue)


@contextmanager
def open_configurations(config: Path, data_dir: Path) -> Iterator[ConfigurationKeeper]:
    """Open what the site file's history needs and no more: it is asked for when the file itself is broken."""
    data_dir = data_dir.absolute()
    environment = read_environment(os.environ)
    _must_have_run(data_dir, environment)
    engine = open_engine(database_url(data_dir, environment.database_url))
    try:
        _must_be_current(engine)
        clock = SystemClock()
        queue = CeleryQueue(redis_url(data_dir, environment.redis_url))
        here = SiteFileHere(config.absolute(), data_dir, check_site)
        yield ConfigurationKeeper(SqlUnitsOfWork(engine, queue, clock), SqlReports(engine), here, clock)
    finally:
        engine.dispose()


def _must_have_run(data_dir: Path, environment: Environment) -> None:
    if environment.database_url is None and not (data_dir / SQLITE_FILE).exists():
        raise ConfigurationError(f"no broker has run in {data_dir}: --data-dir or $BROKER_DATA_DIR?")


def _must_be_current(engine: Engine) -> None:
    if not is_current(engine):
        engine.dispose()
        raise ConfigurationError("the database is not at this version's schema; run: broker db migrate")


def migrate_database(config: Path, data_dir: Path) -> str:
    """Bring the schema to this version and write the installation's identity; answer the revision."""
    _site_for(config)
    data_dir = data_dir.absolute()
    data_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
    environment = read_environment(os.environ)
    engine = open_engine(database_url(data_dir, environment.database_url))
    try:
        assert_durable(engine, accept_data_loss=environment.accept_data_loss)
        if not is_current(engine):
            # Alembic is a tenth of a second of every start, and its check of all references grows with the data.
            from broker.db.migrate import migrate

            migrate(engine)
        uid_namespace(engine, now=SystemClock().now())
    finally:
        engine.dispose()
    return newest_revision()


def back_up(config: Path, data_dir: Path, target: Path, told: Callable[[int, int], None]) -> str:
    """Write a consistent copy of database and images beside whatever runs; answer what was written."""
    with open_broker(config, data_dir) as broker:
        images, now = broker.data_dir / IMAGES, broker.clock.now()
        manifest = backup(broker.engine, images, target.absolute(), now=now, told=told)
    return f"{target}: schema {manifest.schema}, written {manifest.created_at}"


def bring_back(config: Path, data_dir: Path, source: Path, told: Callable[[int, int], None]) -> str:
    """Put a backup into an empty data directory and database. Raises Conflict when they are not empty."""
    read_site(config, os.environ)
    data_dir = data_dir.absolute()
    data_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
    url = database_url(data_dir, read_environment(os.environ).database_url)
    manifest = restore(url, data_dir / IMAGES, source.absolute(), told=told)
    return f"{data_dir}: schema {manifest.schema}, of {manifest.created_at}"
