"""A real collector for audit messages: Debian's rsyslog, by TLS."""

import re
import subprocess
from base64 import b64decode
from dataclasses import dataclass
from pathlib import Path

from tests.audit_schema import valid
from tests.broker_process import wait_until
from tests.peers import program
from tests.ports import free_port

_LINE = re.compile(rb'^(\d+) (\S+) \[event@32473 number="(\d+)"\] (.+)$')
_SETTINGS = """
global(workDirectory="{folder}" maxMessageSize="64k" DefaultNetstreamDriver="ossl"
  DefaultNetstreamDriverCAFile="{folder}/cert.pem" DefaultNetstreamDriverCertFile="{folder}/cert.pem"
  DefaultNetstreamDriverKeyFile="{folder}/key.pem")
module(load="imtcp" StreamDriver.Name="ossl" StreamDriver.Mode="1" StreamDriver.AuthMode="anon")
template(name="line" type="string" string="%pri% %msgid% %structured-data% %msg%\\n")
ruleset(name="audit") {{ action(type="omfile" file="{folder}/audit.log" template="line") }}
input(type="imtcp" address="127.0.0.1" port="{port}" ruleset="audit")
"""


def certificate(folder: Path) -> Path:
    """Write a certificate for localhost with its key, answer it."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"],
        check=True, capture_output=True, cwd=folder,
    )  # fmt: skip
    return folder / "cert.pem"


@dataclass(frozen=True)
class Received:
    """One line of the collector."""

    priority: int
    message_id: str
    number: int
    root: object

    @property
    def event(self) -> str:
        """Answer the meaning of its EventID."""
        return self.root.find("EventIdentification/EventID").get("originalText")

    @property
    def query(self) -> bytes:
        """Answer the octets of its query."""
        return b64decode(self.root.findtext(".//ParticipantObjectQuery"))


class Rsyslog:
    """Runs until it is stopped or killed; keeps what it has written."""

    def __init__(self, folder: Path) -> None:
        self._program = program("rsyslogd")
        self.folder, self.port = folder, free_port()
        self.certificate = certificate(folder)
        self.file = folder / "audit.log"
        (folder / "rsyslog.conf").write_text(_SETTINGS.format(folder=folder, port=self.port))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it listens a moment later."""
        self._process = subprocess.Popen(
            [self._program, "-n", "-f", self.folder / "rsyslog.conf", "-i", self.folder / "pid"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def stop(self, *, kill: bool = False) -> None:
        """Let it end in order, or not."""
        if self._process is not None:
            (self._process.kill if kill else self._process.terminate)()
            self._process.wait(30)
            self._process = None

    def received(self) -> list[Received]:
        """Answer every whole line, each allowed by the schema."""
        lines = self.file.read_bytes().split(b"\n")[:-1] if self.file.exists() else []
        found = []
        for line in lines:
            match = _LINE.match(line)
            assert match, line
            found.append(Received(int(match[1]), match[2].decode(), int(match[3]), valid(match[4])))
        return found

    def wait_for(self, condition, *, timeout_s: float = 40.0):
        """Wait until what was received fulfils a condition, answer it."""
        wait_until(lambda: condition(self.received()), timeout_s=timeout_s, what="the collector's line")
        return self.received()
