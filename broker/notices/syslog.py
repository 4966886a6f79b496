"""Syslog (RFC 5424) over UDP (RFC 5426), TCP with counted octets (RFC 6587 3.4.1) or TLS (RFC 5425)."""

from __future__ import annotations

import fcntl
import os
import re
import select
import socket
import ssl
import sys
import termios
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from broker.domain.alerts import Notice
from broker.notices.wording import one_line
from broker.settings import SyslogTarget
from broker.workflow.alerts_port import ChannelFailed, Message, Told

TIMEOUT_S = 10.0
FAREWELL_S = 0.5
SILENT_S = 30.0
"""How long a collector's machine may leave octets unacknowledged."""
APP_NAME = "worklist-broker"
LARGEST_DATAGRAM = 65_000
_DAEMON = 3
_SEVERITIES = {"critical": 2, "warning": 4, "notice": 5}
_ID = "alert@32473"
"""SD-ID; 32473 is the number RFC 5612 sets aside for those without one of their own."""
_LEFT = "the collector has closed the connection"
_UNSAFE = re.compile(r'([\\"\]])')


@dataclass(frozen=True, slots=True)
class Entry:
    """One message of RFC 5424."""

    at: datetime
    severity: int
    message_id: str
    text: str
    facility: int = _DAEMON
    structured: str = "-"
    with_mark: bool = True
    """A byte order mark says that the text is UTF-8 (6.4)."""

    def encoded(self) -> bytes:
        """Answer its octets."""
        at = self.at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        host = re.sub(r"[^!-~]", "-", socket.gethostname())[:255] or "-"
        head = (
            f"<{self.facility * 8 + self.severity}>1 {at} {host} {APP_NAME} {os.getpid()} {self.message_id}"
        )
        mark = b"\xef\xbb\xbf" if self.with_mark else b""
        return f"{head} {self.structured} ".encode() + mark + self.text.encode("utf-8", "replace")


class SyslogSender:
    """Keeps a connection to a collector and puts entries on it, one after the other."""

    def __init__(self, target: SyslogTarget, *, folder: Path = Path()) -> None:
        """Prepare; nothing is connected yet. Files of the target are relative to `folder`."""
        self._target = target
        self._folder = folder
        self._socket: socket.socket | None = None

    @property
    def is_open(self) -> bool:
        """Tell whether there is a connection, as far as is known."""
        return self._socket is not None

    def send(self, entry: Entry) -> None:
        """Put an entry on the wire, on a new connection when the last one has ended. Raises OSError."""
        if self._has_ended():
            self.close()
        self.put(entry)

    def put(self, entry: Entry) -> None:
        """Put an entry on the wire. Raises OSError also when the connection has ended; then the next one connects."""
        octets = entry.encoded()
        try:
            if self._socket is None:
                self._socket = self._connect()
            elif self._has_ended():
                raise ConnectionResetError(_LEFT)
            if self._target.protocol == "udp":
                self._socket.send(octets[:LARGEST_DATAGRAM])
            else:
                self._socket.sendall(b"%d " % len(octets) + octets)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Give the connection back."""
        connection, self._socket = self._socket, None
        if connection is None:
            return
        if isinstance(connection, ssl.SSLSocket):
            connection.settimeout(FAREWELL_S)
            with suppress(
                OSError, ValueError
            ):  # a close_notify first (RFC 5425 4.4), to whoever still listens
                connection.unwrap()
        connection.close()

    def confirm(self, *, wait_s: float = 0.0) -> None:
        """Ask whether the collector is still there: syslog confirms nothing. Raises OSError when it has left.

        `wait_s` is how long to listen for its leaving.
        """
        if self._socket is not None and wait_s > 0:
            select.select([self._socket], [], [], wait_s)
        if self._socket is not None and self._has_ended():
            self.close()
            raise ConnectionResetError(_LEFT)

    def unacknowledged(self) -> int:
        """Count the octets the collector's machine has not acknowledged; 0 where nothing is acknowledged."""
        if self._socket is None or self._target.protocol == "udp":
            return 0
        waiting = bytearray(4)
        fcntl.ioctl(self._socket, termios.TIOCOUTQ, waiting)
        return int.from_bytes(waiting, sys.byteorder)

    def _has_ended(self) -> bool:
        """Tell whether the other side has closed; what it says otherwise nobody wants."""
        connection = self._socket
        if connection is None or self._target.protocol == "udp":
            return False
        connection.setblocking(False)
        try:
            return connection.recv(4096) == b""
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            return True
        finally:
            connection.settimeout(TIMEOUT_S)

    def _connect(self) -> socket.socket:
        target = self._target
        if target.protocol == "udp":
            family, kind, number, _, address = socket.getaddrinfo(
                target.host, target.port, type=socket.SOCK_DGRAM
            )[0]
            datagrams = socket.socket(family, kind, number)
            datagrams.connect(address)
            return datagrams
        plain = socket.create_connection((target.host, target.port), timeout=TIMEOUT_S)
        # A machine that is switched off says nothing: then this ends the connection, and not a quarter of an hour.
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(SILENT_S * 1000))
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if target.protocol == "tcp":
            return plain
        try:
            context = ssl.create_default_context(cafile=self._file(target.ca))
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if target.certificate:
                context.load_cert_chain(self._file(target.certificate) or "", self._file(target.key))
            return context.wrap_socket(plain, server_hostname=target.host)
        except BaseException:
            plain.close()
            raise

    def _file(self, path: Path | None) -> str | None:
        return None if path is None else str(self._folder / path)


class Syslog:
    """Implements the Channel port: one entry for each alert."""

    name = "syslog"

    def __init__(self, target: SyslogTarget, *, folder: Path = Path()) -> None:
        """Prepare; nothing is connected yet."""
        self._target = target
        self._sender = SyslogSender(target, folder=folder)

    def send(self, message: Message) -> None:
        """Put every line on the wire. Raises ChannelFailed."""
        try:
            for line in message.lines:
                self._sender.send(entry_of(line, message))
            self._sender.confirm()
        except OSError as error:
            raise ChannelFailed(f"{self._target.host}:{self._target.port}: {type(error).__name__}") from error


def entry_of(line: Told, message: Message) -> Entry:
    """Answer an alert as an entry, its parts as structured data."""
    values = {
        "kind": line.kind,
        "about": line.subject,
        "notice": line.notice.name.lower(),
        "link": line.link,
        "site": message.site,
    }
    structured = " ".join(f'{name}="{_escaped(value)}"' for name, value in values.items())
    severity = 6 if line.notice in {Notice.RECOVERED, Notice.TEST} else _SEVERITIES[line.severity]
    text = one_line(f"{line.notice.value}: {line.headline}")
    return Entry(message.at, severity, "ALERT", text, structured=f"[{_ID} {structured}]")


def _escaped(value: str) -> str:
    return _UNSAFE.sub(r"\\\1", one_line(value))
