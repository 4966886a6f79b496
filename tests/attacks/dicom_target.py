"""What is attacked: a bare pynetdicom AE or a broker, as a process whose memory, threads and files are watched."""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.attacks.dicom_sentinel import PATIENCE_S
from tests.attacks.dicom_wire import CANARY, Caller
from tests.broker_process import ROOT, RunningBroker, wait_until
from tests.ports import free_port

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Figures:
    """What a process holds."""

    threads: int
    files: int
    """Descriptors, without those of the reserve."""
    reserve: int
    """Empty files kept ready for images to come."""
    resident: int
    peak: int
    """Of resident memory, since `Target.forget_peak`."""


@dataclass
class Target:
    """A listener and its process."""

    host: str
    port: int
    pid: int
    log: Path
    folder: Path
    """Where it keeps what it receives."""
    is_ours: bool
    tls: bool = False
    deadline_s: float = 2.0
    """Its own deadlines: for the first PDU, a PDU, silence, an answer that is not read."""
    slack_s: float = 6.0
    """What is granted on top: our last word may linger, and the machine may be busy."""
    long: bool = False

    def call(self, *, tls: bool = False, **more) -> Caller:
        return Caller(self.host, self.port, tls=tls or (self.tls and more.pop("secured", True)), **more)

    @property
    def patience_s(self) -> float:
        """How long an attacker waits for the end that the deadlines promise."""
        return self.deadline_s + self.slack_s

    def figures(self) -> Figures:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        found = dict(line.split(":", 1) for line in lines)
        names = list(Path(f"/proc/{self.pid}/fd").iterdir())
        reserve = sum(1 for name in names if _is_empty_part(name))
        return Figures(
            threads=int(found["Threads"]),
            files=len(names) - reserve,
            reserve=reserve,
            resident=int(found["VmRSS"].split()[0]) * 1024,
            peak=int(found["VmHWM"].split()[0]) * 1024,
        )

    def descriptors(self) -> str:
        """Name what is open, the same kinds together."""
        names: Counter[str] = Counter()
        for entry in Path(f"/proc/{self.pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                name = str(entry.readlink())
                names[name.partition(":")[0] if ":[" in name else Path(name).name] += 1
        return ", ".join(f"{count}× {name}" for name, count in names.most_common())

    def resting(self) -> Figures:
        """Answer the least it holds within a moment: an echo of the sentinel comes and goes."""
        seen = []
        until = time.monotonic() + 0.4
        while time.monotonic() < until:
            seen.append(self.figures())
            time.sleep(0.02)
        return min(seen, key=lambda one: (one.files, one.threads))

    def forget_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def returned(self, before: Figures, *, within_s: float) -> Figures:
        """Wait until threads and files are what they were; answer the figures of then, or of the deadline.

        Threads may be fewer: a listener keeps some in reserve.
        """
        deadline = time.monotonic() + within_s
        while True:
            now = self.figures()
            if (now.threads <= before.threads and now.files <= before.files) or time.monotonic() > deadline:
                return now
            time.sleep(0.05)

    def lines(self, offset: int) -> list[bytes]:
        with self.log.open("rb") as log:
            log.seek(offset)
            return log.read().splitlines()


def _is_empty_part(descriptor: Path) -> bool:
    with contextlib.suppress(OSError):  # closed meanwhile
        return str(descriptor.readlink()).endswith(".part") and descriptor.stat().st_size == 0
    return False


class Sentinel:
    """Asks C-ECHO all the time, from a process of its own."""

    def __init__(self, target: Target) -> None:
        kind = "tls" if target.tls else "plain"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.attacks.dicom_sentinel", target.host, str(target.port), kind],
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        )
        self._times: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()
        wait_until(lambda: not self._times.empty(), what="the first echo of the sentinel")

    def _listen(self) -> None:
        for line in self._process.stdout:
            self._times.put(line.strip())

    def worst_s(self) -> float:
        """Wait for the end of the echo under way; answer the longest since the last call.

        An echo that never came counts with the sentinel's whole patience.
        """
        seen = []
        with contextlib.suppress(queue.Empty):
            while True:
                seen.append(self._times.get_nowait())
        seen.append(self._times.get(timeout=4 * PATIENCE_S))
        return max(PATIENCE_S if line == "-" else float(line) for line in seen)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def bare_ae(folder: Path, *, certificates: Path | None = None) -> Iterator[Target]:
    """Run a bare AE for one attack."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "received"
    kept.mkdir(exist_ok=True)
    port, log = free_port(), folder / "bare.log"
    secured = [] if certificates is None else [certificates / "broker.pem", certificates / "broker.key"]
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.attacks.dicom_bare", str(port), kept, *secured],
            stdout=out,
            stderr=out,
            cwd=ROOT,
        )
    target = Target("127.0.0.1", port, process.pid, log, kept, is_ours=False, tls=certificates is not None)
    target.slack_s = 4.0
    try:
        wait_until(lambda: _listens(port), what="the bare AE's start")
        yield target
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), Caller("127.0.0.1", port, timeout_s=1.0):
        return True
    return False


@dataclass
class AttackedBroker:
    """A `broker serve` with the limits of production, but for deadlines that nobody wants to wait for."""

    folder: Path
    deadline_s: float = 2.0
    certificates: Path | None = None
    limits: dict = field(default_factory=dict)

    def __enter__(self) -> Target:
        self.folder.mkdir(parents=True, exist_ok=True)
        patience = f"{self.deadline_s:g}s"
        names = ("first_pdu", "pdu", "idle", "storage_idle", "send")
        dicom: dict[str, object] = {"accept_unknown_devices": "never"}
        if self.certificates is not None:
            dicom["tls"] = {
                "certificate": str(self.certificates / "broker.pem"),
                "key": str(self.certificates / "broker.key"),
            }
        self.broker = RunningBroker(
            self.folder,
            {
                "listen": {"dicom": dicom},
                "devices": [{"ae_title": "CT1"}, {"ae_title": "SENTINEL"}],
                "limits": {"dicom": {f"{name}_timeout": patience for name in names} | self.limits},
            },
        )
        self.broker.start()
        (pid,) = self.broker.pids("dicom")
        return Target(
            "127.0.0.1",
            self.broker.dicom,
            pid,
            self.broker.log,
            self.broker.data_dir,
            is_ours=True,
            tls=self.certificates is not None,
            deadline_s=self.deadline_s,
        )

    def __exit__(self, *_: object) -> None:
        self.broker.stop()


def certificates_in(folder: Path) -> Path:
    """Make a certificate and its key."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-days", "2", "-keyout", "broker.key", "-out", "broker.pem", "-subj", "/CN=BROKER"),
        ],
        check=True,
        capture_output=True,
        cwd=folder,
    )
    return folder


def bad_lines(lines: list[bytes], *, most: int) -> str | None:
    """Answer what is wrong with what an attack left in the log, or None."""
    if len(lines) > most:
        return f"{len(lines)} log lines, the last: {lines[-1][:200]!r}"
    for line in lines:
        if len(line) > 2048:
            return f"a log line of {len(line)} bytes: {line[:200]!r}"
        if CANARY.split("^")[0].encode() in line:
            return f"a patient in the log: {line[:200]!r}"
        if any(byte < 0x20 or byte == 0x7F for byte in line):
            return f"control characters in the log: {line[:200]!r}"
    return None
