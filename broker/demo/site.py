"""The throwaway site of the demo: free ports, a site file, a broker process, and its command line."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Self

AE_TITLE = "BROKER"
ARCHIVE_RETRY = "8s"
"""Long enough to switch the archive on between the first tries and the second."""
_PORTS = range(12_000, 20_000)
_START_S = 120.0
_STOP_S = 30.0
_COMMAND_S = 120.0

_SITE_FILE = """\
site: {{ name: Demo Hospital, timezone: UTC, ae_title: {ae_title} }}
listen:
  hl7:   {{ host: 127.0.0.1, port: {hl7} }}
  dicom: {{ host: 127.0.0.1, port: {dicom}, accept_unknown_devices: never }}
  web:   {{ host: 127.0.0.1, port: {web} }}
devices:
  - {{ ae_title: CT1, modality: CT }}
  - {{ ae_title: CT2, modality: CT }}
  - {{ ae_title: MR1, modality: MR, character_set: ISO_IR 192 }}
  - {{ ae_title: CR1, modality: [CR, DX] }}
destinations:
  ai-chest: {{ kind: dicom, host: 127.0.0.1, port: {cad}, called_ae_title: CADX, retry: {{ first: 1s, cap: 2s }} }}
  archive:  {{ kind: dicom, host: 127.0.0.1, port: {archive}, called_ae_title: PACS, safekeeping: true, retry: {{ first: {archive_retry}, cap: 30s }} }}
  film:     {{ kind: print, host: 127.0.0.1, port: {printer}, called_ae_title: FILM, retry: {{ first: 1s, cap: 2s }} }}
  ris:      {{ kind: mllp, host: 127.0.0.1, port: {ris}, retry: {{ first: 1s, cap: 2s }} }}
feedback: {{ destination: ris, message: ORM^O01 }}
completion: {{ series_quiet: 1s, study_quiet: 2s, cap: 30s }}
limits: {{ storage: {{ free_reserve_bytes: 67108864, free_reserve_percent: 0 }} }}
routes:
  - name: chest-ct-to-ai
    when:
      Modality: CT
      BodyPartExamined: [CHEST, PLATES]
      not: {{ ImageType: "*LOCALIZER*" }}
    send: [ai-chest]
    unit: series
  - name: plates-to-film
    when: {{ Modality: [CR, DX] }}
    send: [film]
    unit: series
  - name: exams-to-archive
    when: {{ Modality: [CT, MR, CR, DX] }}
    send: [archive]
"""


@dataclass(frozen=True, slots=True)
class Ports:
    """One free port for everybody."""

    hl7: int
    dicom: int
    web: int
    ris: int
    cad: int
    archive: int
    printer: int

    @classmethod
    def free(cls) -> Self:
        """Find ports nobody uses, all at once so that they differ.

        They are bound later, the archive's when the day is half over. So they are below those that systems give to outgoing connections.
        """
        with ExitStack() as opened:
            return cls(*islice(_unused_ports(opened), len(cls.__dataclass_fields__)))


def _unused_ports(opened: ExitStack) -> Iterator[int]:
    for port in random.sample(_PORTS, len(_PORTS)):
        with suppress(OSError):
            opened.enter_context(socket.create_server(("127.0.0.1", port)))
            yield port


def site_file(ports: Ports) -> str:
    """Write the site file of the demo."""
    values = {name: getattr(ports, name) for name in Ports.__dataclass_fields__}
    return _SITE_FILE.format(ae_title=AE_TITLE, archive_retry=ARCHIVE_RETRY, **values)


@dataclass
class BrokerProcess:
    """A broker of its own: started with the block, stopped at its end."""

    folder: Path
    ports: Ports

    def __post_init__(self) -> None:
        self.config = self.folder / "broker.yaml"
        self.data_dir = self.folder / "data"
        self.log = self.folder / "broker.log"
        self.started = False

    def __enter__(self) -> Self:
        self.config.write_text(site_file(self.ports), encoding="utf-8")
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command("serve"),
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_environment(),
                cwd=self.folder,
            )
        self.started = True
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(_STOP_S)

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def wait_until_it_answers(self, echo: Callable[[], bool]) -> None:
        """Wait for the HL7 port and a C-ECHO. Raises TimeoutError with what the broker wrote last."""
        until = time.monotonic() + _START_S
        while time.monotonic() < until and self.alive:
            if _listens(self.ports.hl7) and _listens(self.ports.dicom) and echo():
                return
            time.sleep(0.1)
        raise TimeoutError(f"the broker does not answer:\n{self.last_words()}")

    @property
    def pages(self) -> str:
        """Answer the link that makes the first account of the pages, or that of the pages once there is one."""
        address = f"http://127.0.0.1:{self.ports.web}"
        token = self.data_dir / "first-run-token"
        return f"{address}/first-run#{token.read_text().strip()}" if token.exists() else f"{address}/"

    def ask(self, *arguments: str) -> list[dict[str, Any]]:
        """Answer what `broker … --json` prints. Raises RuntimeError when it fails."""
        answer: list[dict[str, Any]] = json.loads(self.tell(*arguments, "--json"))
        return answer

    def tell(self, *arguments: str) -> bytes:
        """Run a command, answer what it prints. Raises RuntimeError when it fails."""
        done = subprocess.run(
            self._command(*arguments),
            capture_output=True,
            timeout=_COMMAND_S,
            env=_environment(),
            cwd=self.folder,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"broker {' '.join(arguments)}: {done.stderr.decode(errors='replace')[-500:]}")
        return done.stdout

    def last_words(self, characters: int = 2000) -> str:
        """Answer the end of its log."""
        return self.log.read_text(errors="replace")[-characters:] if self.log.exists() else ""

    def _command(self, *arguments: str) -> list[str]:
        where = ["--config", str(self.config), "--data-dir", str(self.data_dir)]
        return [sys.executable, "-m", "broker", *arguments, *where]


def _environment() -> Mapping[str, str]:
    """Leave out the settings of another broker on this machine."""
    return {name: value for name, value in os.environ.items() if not name.startswith("BROKER_")}


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
