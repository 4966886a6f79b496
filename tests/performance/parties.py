"""Starts who is compared: our own listener as a process, DCMTK's and Orthanc. All on this machine's loopback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from broker.bootstrap import migrate_database
from broker.db.engine import database_url
from broker.queue import embedded_socket
from broker.valkey import EmbeddedValkey
from tests.broker_process import BROKER, ROOT, RunningBroker
from tests.peers import answers
from tests.ports import free_port

AE_TITLE = "BROKER"
WORKLIST_PLUGIN = Path("/usr/lib/orthanc/libModalityWorklists.so.1.10.1")
# DCMTK and Orthanc, which is built on it, wait for acknowledgements on loopback unless told not to.
_NO_DELAY = {**os.environ, "TCP_NODELAY": "1"}


class Ours:
    """A data directory of our own, and its DICOM listener while it runs."""

    def __init__(self, folder: Path) -> None:
        """Make the database; nothing listens yet."""
        folder.mkdir()
        self.config, self.data_dir, self.port = folder / "broker.yaml", folder / "data", free_port()
        site = {
            "site": {"ae_title": AE_TITLE},
            "listen": {"dicom": {"port": self.port}},
            "limits": {"storage": {"free_reserve_bytes": 0, "free_reserve_percent": 0}},
        }
        self.config.write_text(json.dumps(site))
        migrate_database(self.config, self.data_dir)
        self.database_url = database_url(self.data_dir, None)
        self.pid = 0

    @contextmanager
    def listening(self, *, synced: bool = True) -> Iterator[None]:
        """Run `broker run dicom`, with the bundled Valkey to wake workers on; `synced` is how it is shipped."""
        valkey = EmbeddedValkey(self.data_dir, embedded_socket(self.data_dir))
        valkey.start()
        command = [BROKER, "run", "dicom", "--config", self.config, "--data-dir", self.data_dir]
        if not synced:
            command = [sys.executable, "-m", "tests.performance.without_syncs", self.config, self.data_dir]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            answers(self.port, timeout_s=30)
            self.pid = process.pid
            yield
        finally:
            process.terminate()
            process.wait(30)
            valkey.stop()


@contextmanager
def serving(
    home: Path,
    *,
    destinations: dict[str, int],
    listen: dict[str, object] | None = None,
    environment: dict[str, str] | None = None,
    entries: Callable[[str], None] | None = None,
) -> Iterator[RunningBroker]:
    """Run `broker serve` with a route for every CT image to every destination, at once; `entries` fills a new database."""
    broker = RunningBroker(
        home,
        {
            "site": {"ae_title": AE_TITLE},
            "listen": listen or {},
            "limits": {"storage": {"free_reserve_bytes": 0, "free_reserve_percent": 0}},
            "destinations": {
                name: {"kind": "dicom", "host": "127.0.0.1", "port": port, "called_ae_title": "ANY"}
                for name, port in destinations.items()
            },
            "routes": [
                {"name": f"to-{name}", "when": {"Modality": "CT"}, "send": [name], "unit": "instance"}
                for name in destinations
            ],
        },
        environment or {},
    )
    if entries is not None:
        migrate_database(broker.config, broker.data_dir)
        entries(database_url(broker.data_dir, None))
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


@contextmanager
def dcmtk(name: str, *args: object) -> Iterator[int]:
    """Run a DCMTK server; answer its port."""
    port = free_port()
    with _running([name, *map(str, args), str(port)], port):
        yield port


@contextmanager
def orthanc(folder: Path, *, worklist: Path | None = None) -> Iterator[int]:
    """Run Orthanc, with its worklist plugin when given a folder of entries; answer its port."""
    folder.mkdir()
    port = free_port()
    settings = {
        "StorageDirectory": str(folder / "store"),
        "IndexDirectory": str(folder / "store"),
        "DicomAet": AE_TITLE,
        "DicomPort": port,
        "HttpPort": free_port(),
        "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowFindWorklist": True,
        "DicomThreadsCount": 8,
        "Plugins": [str(WORKLIST_PLUGIN)] if worklist else [],
        "Worklists": {"Enable": worklist is not None, "Database": str(worklist)},
    }
    configuration = folder / "orthanc.json"
    configuration.write_text(json.dumps(settings))
    with _running(
        [shutil.which("Orthanc", path="/usr/sbin:/usr/bin") or "Orthanc", str(configuration)], port
    ):
        yield port


@contextmanager
def _running(command: list[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(command, env=_NO_DELAY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        answers(port, timeout_s=30)
        yield
    finally:
        process.kill()
        process.wait()
