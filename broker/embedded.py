"""`broker serve`: the whole broker in one command, on SQLite and the bundled Valkey unless told otherwise."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

import structlog

from broker.bootstrap import hold_site, migrate_database, read_site
from broker.db.engine import DataDirectoryLock, database_url, open_engine
from broker.db.heartbeats import forget_host, retire
from broker.errors import BrokerError, ConfigurationError, OutOfResources
from broker.failpoints import failpoint
from broker.file_handles import take_handles
from broker.importing import staying
from broker.logs import configure_logging
from broker.queue import embedded_socket
from broker.settings import Site, read_environment
from broker.site_file import LoadedSite, SiteFileError
from broker.supervisor import Role, Supervisor
from broker.valkey import EmbeddedValkey

READY_TIMEOUT_S = 30.0
FORGET_TIMEOUT_S = 1.0
_AFTER_WORKLISTS, _AFTER_LISTENERS = 2, 5
"""Niceness: a patient waits for the worklist, images wait for a disk, and what is sent on waits for everybody."""

log = structlog.get_logger()


def serve_all(config: Path, data_dir: Path) -> int:
    """Run every role until SIGTERM or SIGINT. Answers the exit code; 2 = it could not start."""
    configure_logging(role="serve", level=os.environ.get("BROKER_LOG_LEVEL", "INFO"))
    config, data_dir = config.absolute(), data_dir.absolute()
    try:
        loaded = read_site(config, os.environ)
        hold_site(loaded)
        take_handles("serve", loaded.site.limits)  # what is forked from here inherits them
        data_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
        with ExitStack() as stack:
            environment = read_environment(os.environ)
            if environment.database_url is None:
                stack.enter_context(DataDirectoryLock(data_dir))
            refuse_ports_in_use(loaded.site)
            migrate_database(config, data_dir)
            failpoint("start.after_migration")
            address = database_url(data_dir, environment.database_url)
            _forget_last_run(address)
            roles = list(_roles(loaded, config, data_dir))
            if environment.redis_url is None:
                roles.insert(0, _valkey_role(data_dir))
            os.environ["BROKER_CONFIG"], os.environ["BROKER_DATA_DIR"] = str(config), str(data_dir)
            _preload()
            announcement = _Announcement(loaded.site)
            return Supervisor(roles).run(
                starting=announcement.is_due,
                reload=lambda: _reload(config),
                died=lambda role, pid: _forget(address, role, pid),
            )
    except BrokerError as error:
        print(f"broker: {error}", file=sys.stderr)
        return 2


def _forget_last_run(address: str) -> None:
    """After a crash the last heartbeats are still fresh; nothing of this host is healthy before it has started."""
    engine = open_engine(address)
    try:
        forget_host(engine, host=socket.gethostname())
    finally:
        engine.dispose()


def _forget(address: str, role: str, pid: int) -> None:
    """Take back the heartbeat of a role that died, so that nobody takes it for healthy.

    The supervisor does this, and starts nobody meanwhile: it does not wait for who holds the database's lock.
    """
    engine = open_engine(address, busy_timeout_s=FORGET_TIMEOUT_S)
    try:
        retire(engine, role=role, host=socket.gethostname(), pid=pid)
    except OutOfResources:
        log.warning("no word of a dead role: the database does not answer")
    finally:
        engine.dispose()


def _reload(config: Path) -> bool:
    """Read the site file again; the one in force stays when the new one has problems."""
    try:
        loaded = read_site(config, os.environ)
    except SiteFileError as error:
        for problem in error.problems:
            log.error("site file not reloaded", problem=str(problem))
        return False
    hold_site(loaded)
    log.info("site file reloaded", sha256=loaded.sha256)
    return True


def _roles(loaded: LoadedSite, config: Path, data_dir: Path) -> Iterator[Role]:
    listen = loaded.site.listen

    def started(name: str) -> Callable[[], int]:
        def run() -> int:
            from broker.roles import run_role

            return run_role(name, config, data_dir)

        return run

    yield Role("hl7", started("hl7"))
    for _ in range(listen.dicom.processes):
        yield Role("dicom", started("dicom"))
    if listen.storage is not None:
        for _ in range(listen.storage.processes):
            yield Role("storage", started("storage"), niceness=_AFTER_WORKLISTS)
    yield Role("worker", lambda: _worker(config, data_dir), niceness=_AFTER_LISTENERS)
    yield Role("sweep", started("sweep"), niceness=_AFTER_LISTENERS)
    yield Role("web", started("web"))


def _worker(config: Path, data_dir: Path) -> int:
    """Run the Celery worker, found by its entry point: the broker does not import its workers."""
    (point,) = entry_points(group="broker.roles", name="worker")
    code: int = point.load()(config, data_dir)
    return code


def _valkey_role(data_dir: Path) -> Role:
    return Role(
        "valkey", lambda: EmbeddedValkey(data_dir, embedded_socket(data_dir)).run(), is_replaceable=False
    )


def refuse_ports_in_use(site: Site) -> None:
    """Raise ConfigurationError naming the key of a port somebody else listens on."""
    listen = site.listen
    wanted = {"hl7": listen.hl7, "dicom": listen.dicom, "storage": listen.storage, "web": listen.web}
    for key, listener in wanted.items():
        if listener is None or listener.port == 0:
            continue
        family = socket.AF_INET6 if ":" in listener.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((listener.host, listener.port))
            except OSError as error:
                raise ConfigurationError(
                    f"listen.{key}: cannot listen on {listener.host}:{listener.port}: {error.strerror}"
                ) from error


def _preload() -> None:
    """Import what the roles share, so that the forked processes share its memory; no threads, no connections."""
    with staying():
        import_module("broker.dicom_role")
        import_module("broker.hl7_role")
        import_module("celery.app.base")
        import_module("kombu.transport.redis")
        for point in entry_points(group="broker.roles"):
            point.load()


class _Announcement:
    """Says where the broker listens, once every port answers."""

    def __init__(self, site: Site) -> None:
        listen = site.listen
        self._site = site
        self._deadline = time.monotonic() + READY_TIMEOUT_S
        self._silent = {
            name: (listener.host, listener.port)
            for name, listener in (
                ("HL7", listen.hl7),
                ("DICOM", listen.dicom),
                ("storage", listen.storage),
                ("dashboard", listen.web),
            )
            if listener is not None and listener.port
        }

    def is_due(self) -> bool:
        """Look once; answer whether to look again."""
        self._silent = {name: place for name, place in self._silent.items() if not _answers(*place)}
        if self._silent and time.monotonic() < self._deadline:
            return True
        for name, (host, port) in self._silent.items():
            print(f"broker: {name} does not answer yet on {host}:{port}", file=sys.stderr, flush=True)
        if not self._silent:
            self._say()
        return False

    def _say(self) -> None:
        listen, site = self._site.listen, self._site.site
        storage = f"  storage    {listen.storage.host}:{listen.storage.port}\n" if listen.storage else ""
        print(
            f"broker: serving {site.name}\n"
            f"  HL7        {listen.hl7.host}:{listen.hl7.port}\n"
            f"  DICOM      {listen.dicom.host}:{listen.dicom.port}  AE title {site.ae_title}\n"
            f"{storage}"
            f"  dashboard  {'https' if listen.web.tls else 'http'}://{listen.web.host}:{listen.web.port}",
            flush=True,
        )


def _answers(host: str, port: int) -> bool:
    from broker.roles import reachable

    try:
        with socket.create_connection((reachable(host), port), timeout=1.0):
            return True
    except OSError:
        return False
