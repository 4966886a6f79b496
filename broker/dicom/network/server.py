"""Accept connections: the only file that does.

Threads take turns at `accept`. The one that gets a connection first judges the caps, then makes sure that
another thread waits in its place, and serves the association itself: no hand-over, and no thread is made for a
connection that is refused. A thread that is done goes back to waiting, or ends when enough others wait.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import os
import socket
import ssl
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import structlog

from broker.dicom.network import pdu
from broker.dicom.network.association import ServedAssociation
from broker.dicom.network.channel import Channel, TlsChannel, set_timeout
from broker.dicom.network.farewell import Farewells
from broker.dicom.network.limits import ServerLimits
from broker.dicom.network.negotiation import Offers
from broker.dicom.network.policy import AETitlePolicy
from broker.dicom.network.reception import Reception
from broker.dicom.network.service import AssociationObserver, AssociationPolicy, Knock, ServiceOffer
from broker.dicom.network.silent import SilentObserver
from broker.dicom.network.tapped import TappedChannel
from broker.dicom.network.tls import ServerTls, subject_of
from broker.workflow.capture_taps import NoTaps, Taps

log = structlog.get_logger(__name__)

_NO_DESCRIPTOR_PAUSE_S: Final = 0.2
_REFUSED_LINGER_BYTES: Final = 64 * 1024
_STOP_LINGER_S: Final = 0.2
_BEFORE_REFUSING: Final = 64


@dataclass(slots=True, eq=False)
class _Connection:
    """Be one accepted connection and its place in the listener."""

    server: DicomServer
    channel: Channel
    sock: socket.socket
    address: str
    counted: bool  # against the cap per address
    accepted_at: float
    association_id: str
    tls_subject: str | None = None
    is_association: bool = False
    idle: bool = False
    is_displaced: bool = False

    def take_association(self) -> bool:
        """Move from the newcomers to the associations."""
        return self.server.admit_association(self)

    def is_stopping(self) -> bool:
        """Tell whether the listener stops."""
        return self.server.is_stopping


class DicomServer:
    """Listen on one port and serve its offers."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        offers: Offers | Iterable[ServiceOffer],
        ae_title: str | None = None,
        policy: AssociationPolicy | None = None,
        limits: ServerLimits | None = None,
        tls: ServerTls | None = None,
        reuse_port: bool = False,
        observer: AssociationObserver | None = None,
        taps: Taps | None = None,
    ) -> None:
        if policy is None:
            if ae_title is None:
                raise ValueError("a server needs an ae_title or a policy")
            policy = AETitlePolicy(frozenset({ae_title}))
        self._host = host
        self._wanted_port = port
        self._policy = policy
        self._limits = limits = limits or ServerLimits()
        self._tls = tls
        self._reuse_port = reuse_port
        self._observer = observer or SilentObserver()
        self._taps: Taps = taps or NoTaps()
        self._reception = Reception(
            offers if isinstance(offers, Offers) else Offers(offers),
            policy=policy,
            limits=limits,
            observer=self._observer,
        )
        self._listener: socket.socket | None = None
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)  # told of only while the listener stops
        self._farewells = Farewells(self._forget, linger_s=self._limits.linger_s)
        self._connections: set[_Connection] = set()
        self._per_address: Counter[str] = Counter()
        self._associations = 0
        self._waiting_threads = 0
        self._threads = 0
        self._stopping = threading.Event()
        self._numbers = itertools.count(1)
        self._prefix = os.urandom(4).hex()

    # ── starting and stopping ───────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Bind, listen and serve; raises OSError when the port cannot be had."""
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self._reuse_port:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            # Accepted connections inherit these on Linux, the first deadlines too: four calls less for each.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            set_timeout(listener, socket.SO_RCVTIMEO, self._limits.first_pdu_s)
            set_timeout(listener, socket.SO_SNDTIMEO, self._limits.send_s)
            listener.bind((self._host, self._wanted_port))
            listener.listen(self._limits.backlog)
        except BaseException:
            listener.close()
            raise
        self._listener = listener
        self._farewells.start()
        with self._lock:
            self._start_thread()

    @property
    def port(self) -> int:
        """Return the port that is listened on."""
        if self._listener is None:
            raise RuntimeError("the server has not been started")
        return int(self._listener.getsockname()[1])

    @property
    def active(self) -> int:
        """Return how many associations are open."""
        return self._associations

    @property
    def is_stopping(self) -> bool:
        """Tell whether `stop` was called."""
        return self._stopping.is_set()

    def stop(self, grace_s: float = 10.0) -> None:
        """Take no more associations, let running requests finish, abort the idle ones and, in the end, all."""
        self._stopping.set()
        listener = self._listener
        if listener is None:
            return
        with contextlib.suppress(OSError):  # wakes every thread that waits in accept
            listener.shutdown(socket.SHUT_RDWR)
        self._farewells.hasten(_STOP_LINGER_S)
        deadline = time.monotonic() + grace_s
        with self._changed:
            for connection in self._connections:
                if connection.idle:
                    connection.channel.interrupt()
                elif not connection.is_association:
                    connection.channel.kill()
            self._changed.wait_for(lambda: not self._connections, max(0.0, deadline - time.monotonic()))
            for connection in self._connections:
                log.warning("association cut", association=connection.association_id)
                connection.channel.kill()
            self._changed.wait_for(lambda: self._threads == 0, 1.0)
        self._farewells.stop()
        listener.close()

    # ── threads ─────────────────────────────────────────────────────────────────────────────────────────

    def _start_thread(self) -> None:
        """Start one more thread that waits for a connection; called with the lock held."""
        self._threads += 1
        self._waiting_threads += 1
        previous = threading.stack_size(self._limits.thread_stack_bytes)
        try:
            thread = threading.Thread(target=self._work, name="dicom-association", daemon=True)
            thread.start()
        except BaseException:
            self._threads -= 1
            self._waiting_threads -= 1
            raise
        finally:
            threading.stack_size(previous)

    def _work(self) -> None:
        listener = self._listener
        if listener is None:
            return
        try:
            while not self._stopping.is_set():
                try:
                    sock, peer_address = listener.accept()
                except BlockingIOError:  # the listener has the deadline its connections are to inherit
                    continue
                except OSError as error:
                    if not self._stopping.wait(_NO_DESCRIPTOR_PAUSE_S):  # out of descriptors: do not spin
                        log.warning("accept failed", error=type(error).__name__, errno=error.errno)
                    continue
                self._farewells.see_off()
                connection = self._admit(sock, str(peer_address[0]))
                if connection is None:
                    continue
                awaits_close = False
                try:
                    awaits_close = self._serve(connection)
                except Exception as error:
                    where = [f"{f.filename}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)]
                    log.warning(
                        "association failed",
                        association=connection.association_id,
                        error=type(error).__name__,
                        where=where,
                    )
                finally:
                    if awaits_close:
                        self._farewells.add(connection)
                    else:
                        connection.channel.close()
                        self._forget(connection)
                with self._lock:
                    if self._waiting_threads >= self._limits.spare_threads:
                        return
                    self._waiting_threads += 1
        finally:
            with self._changed:
                self._threads -= 1
                self._changed.notify_all()

    def _admit(self, sock: socket.socket, address: str) -> _Connection | None:
        """Judge the caps; on success this thread serves, and another waits in accept."""
        address = _plain_address(address)
        counted = not (_is_loopback(address) or self._policy.listed(address))
        limits = self._limits
        connection = _Connection(
            server=self,
            channel=Channel(sock, receive_timeout_s=limits.first_pdu_s, send_timeout_s=limits.send_s),
            sock=sock,
            address=address,
            counted=counted,
            accepted_at=time.monotonic(),
            association_id=f"{self._prefix}-{next(self._numbers)}",
        )
        why = self._take_place(connection)
        if why is not None:  # perhaps some have left whom nobody has seen off yet
            self._farewells.see_off(_BEFORE_REFUSING)
            why = self._take_place(connection)
        if why is None:
            return connection
        self._turn_away(sock, address, why)
        return None

    def _take_place(self, connection: _Connection) -> str | None:
        """Count a newcomer and make sure that another thread waits; answers why there is no place."""
        limits, address = self._limits, connection.address
        with self._lock:
            if self.is_stopping:
                return "the listener stops"
            if connection.counted and self._per_address[address] >= limits.connections_per_unlisted_address:
                return "the address has too many connections"
            if len(self._connections) - self._associations >= limits.unassociated and not self._displace(
                connection.accepted_at
            ):
                return "too many connections wait for their association"
            if self._waiting_threads == 1:
                try:
                    self._start_thread()
                except RuntimeError:
                    return "no further thread can be started"
            self._waiting_threads -= 1
            self._connections.add(connection)
            if connection.counted:
                self._per_address[address] += 1
            return None

    def _displace(self, now: float) -> bool:
        """Take the place of the newcomer that has been silent longest; called with the lock held."""
        oldest = min(
            (c for c in self._connections if not c.is_association and not c.is_displaced),
            key=lambda c: c.accepted_at,
            default=None,
        )
        if oldest is None or now - oldest.accepted_at < self._limits.displace_after_s:
            return False
        oldest.is_displaced = True
        oldest.channel.kill()
        return True

    def _turn_away(self, sock: socket.socket, address: str, why: str) -> None:
        """Refuse without a thread and without waiting: whatever is here is read, so that no reset follows."""
        with contextlib.suppress(OSError), sock:
            sock.setblocking(False)
            if self._tls is None:
                sock.send(pdu.encode_reject(pdu.LOCAL_LIMIT_EXCEEDED))
            sock.shutdown(socket.SHUT_WR)
            sock.recv(_REFUSED_LINGER_BYTES)
        self._observer.refused(
            Knock(
                address=address,
                calling_ae_title=None,
                called_ae_title=None,
                tls_subject=None,
                rejection=pdu.LOCAL_LIMIT_EXCEEDED,
                reason=why,
            )
        )

    def admit_association(self, connection: _Connection) -> bool:
        """Count a newcomer as an association, if there is room."""
        if self._count_association(connection):
            return True
        self._farewells.see_off(_BEFORE_REFUSING)
        return self._count_association(connection)

    def _count_association(self, connection: _Connection) -> bool:
        with self._lock:
            if self._associations >= self._limits.associations or self.is_stopping:
                return False
            connection.is_association = True
            self._associations += 1
            return True

    def _forget(self, connection: _Connection) -> None:
        with self._lock:
            self._connections.discard(connection)
            if connection.is_association:
                self._associations -= 1
            if connection.counted:
                self._per_address[connection.address] -= 1
                if not self._per_address[connection.address]:
                    del self._per_address[connection.address]
            if self.is_stopping:
                self._changed.notify_all()

    # ── one connection ──────────────────────────────────────────────────────────────────────────────────

    def _serve(self, connection: _Connection) -> bool:
        """Serve to the end; answers whether the peer is still to read our last word and to close."""
        deadline = connection.accepted_at + self._limits.first_pdu_s
        sock = connection.sock
        if self._tls is not None:
            secured = self._handshake(connection, self._tls)
            if secured is None:
                return False
            sock = secured
            connection.tls_subject = subject_of(secured)
        if self._taps.is_on:
            self._listen_in(connection, sock)
        association = ServedAssociation(connection.channel, connection, self._reception)
        return association.run(first_pdu_deadline=deadline)

    def _listen_in(self, connection: _Connection, sock: socket.socket) -> None:
        try:
            local, peer = sock.getsockname(), sock.getpeername()
        except OSError:  # reset already
            return
        tap = self._taps.tap((_plain_address(local[0]), local[1]), (connection.address, peer[1]))
        if tap is not None:
            connection.channel = TappedChannel(connection.channel, tap)

    def _handshake(self, connection: _Connection, tls: ServerTls) -> ssl.SSLSocket | None:
        secured = connection.sock
        try:
            secured.settimeout(self._limits.first_pdu_s)  # of the whole handshake
            secured = tls.context().wrap_socket(secured, server_side=True, do_handshake_on_connect=False)
            connection.channel = TlsChannel(secured)
            if connection.is_displaced or self.is_stopping:  # while nobody could reach the socket
                raise ConnectionAbortedError
            secured.do_handshake()
            return secured
        except OSError as error:
            secured.close()
            why = error.reason if isinstance(error, ssl.SSLError) else type(error).__name__
            self._observer.refused(
                Knock(
                    address=connection.address,
                    calling_ae_title=None,
                    called_ae_title=None,
                    tls_subject=None,
                    rejection=None,
                    reason=f"the TLS handshake failed: {why}",
                )
            )
            return None


def _plain_address(address: str) -> str:
    """Write an IPv4 address seen through an IPv6 socket the plain way."""
    return address.removeprefix("::ffff:") if "." in address else address


@lru_cache(maxsize=1024)
def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback
