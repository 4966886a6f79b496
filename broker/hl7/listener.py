"""The MLLP port: many connections, one transaction at a time for all of them; the only file here that awaits.

Blocks of all connections that arrive while one batch is being committed form the next batch. A connection
has one message under way at a time, so that its messages take effect in order even when one of them fails.
An acknowledgement is written after the commit of its batch, never before.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import ipaddress
import socket
import ssl
import termios
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import structlog

from broker.failpoints import failpoint
from broker.hl7.exchange import HANG_UP, Answer, InboundMessage, MessageHandler
from broker.hl7.listener_log import ListenerLog
from broker.hl7.mllp import Frame, Framer, FramingError, FramingFault, frame
from broker.hl7.overheard import Overheard
from broker.workflow.capture_taps import NoTaps, Taps
from broker.workflow.clock import Clock

log = structlog.get_logger(__name__)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class ListenerLimits:
    """Bounds what peers may use of us."""

    max_connections: int = 256
    max_connections_per_host: int = 8
    """Of hosts that are not on the allow-list; loopback is exempt."""
    max_message_bytes: int = 8 * 1024 * 1024
    max_buffered_bytes: int = 128 * 1024 * 1024
    """Of everything of all connections that is not answered yet, unfinished blocks and messages that wait for their
    commit. Above three quarters nothing is read until a commit makes room; when nothing is under way that could, and
    it is all unfinished blocks, the connection that holds most is dropped."""
    frame_timeout_s: float = 30.0
    confirm_timeout_s: float = 0.2
    """How long <1C> may stand without the <0D> after it."""
    write_timeout_s: float = 30.0
    tls_handshake_timeout_s: float = 10.0
    max_batch: int = 64
    displace_after_s: float = 0.5
    """When all places are taken, a connection this long without anything under way gives way to a new one."""
    max_junk_blocks: int = 16
    """Of one connection, without a message between them."""

    @property
    def pause_bytes(self) -> int:
        """Give what may be held while a commit is waited for; the rest is room for the blocks that are unfinished then."""
        return self.max_buffered_bytes * 3 // 4


class MllpListener:
    """Accepts connections and hands their messages over in batches."""

    def __init__(
        self,
        handler: MessageHandler,
        clock: Clock,
        *,
        host: str = "127.0.0.1",
        port: int = 2575,
        tls: ssl.SSLContext | None = None,
        allow: Sequence[Network] = (),
        limits: ListenerLimits | None = None,
        taps: Taps | None = None,
    ) -> None:
        self._handler = handler
        self._clock = clock
        self._host = host
        self._port = port
        self._allow = tuple(allow)
        self._server: asyncio.Server | None = None
        self._executor: ThreadPoolExecutor | None = None
        self._arrived: deque[tuple[_Connection, InboundMessage]] = deque()
        self._pump: asyncio.Task[None] | None = None
        self._hosts: Counter[str] = Counter()
        self._under_way = 0
        self.held_bytes = 0
        """By all connections, and by the messages of those that are gone."""
        self.is_full = False
        """Too much is held: nobody is read."""
        self.tls = tls
        self.taps: Taps = taps or NoTaps()
        self.limits = limits or ListenerLimits()
        self.connections: set[_Connection] = set()
        self.counters: Counter[str] = Counter()
        self.told = ListenerLog(clock.monotonic)
        self.stopping = False

    @property
    def address(self) -> tuple[str, int]:
        """Give the host and port listened on."""
        assert self._server is not None, "the listener has not started"
        name = self._server.sockets[0].getsockname()
        return str(name[0]), int(name[1])

    async def start(self) -> None:
        """Begin to accept connections."""
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="hl7-intake")
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Connection(self), self._host, self._port, backlog=128, reuse_address=True
        )
        log.info("hl7 listener started", host=self.address[0], port=self.address[1], tls=self.tls is not None)

    async def stop(self, *, grace_s: float = 10.0) -> None:
        """Stop accepting, finish and answer what is under way, close everything within the grace."""
        self.stopping = True
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.pause()
        if self._pump is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._pump), grace_s)
        for connection in list(self.connections):
            connection.close()
        await asyncio.sleep(0)  # lets the last acknowledgements leave before the loop ends
        for connection in list(self.connections):
            connection.abort_if_idle()
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
        log.info("hl7 listener stopped")

    # --- called by connections ---

    def admit(self, connection: _Connection, host: str) -> str | None:
        """Count a new connection, or say why it is not taken."""
        reason = self._objection(host)
        if reason is None:
            self.connections.add(connection)
            self._hosts[host] += 1
        return reason

    def _objection(self, host: str) -> str | None:
        if self.stopping:
            return "stopping"
        address = ipaddress.ip_address(host)
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        listed = any(address in network for network in self._allow)
        if self._allow and not listed:
            return "not on the allow-list"
        exempt = listed or address.is_loopback
        if not exempt and self._hosts[host] >= self.limits.max_connections_per_host:
            return "too many connections from this host"
        if len(self.connections) >= self.limits.max_connections and not self._make_room():
            return "too many connections"
        return None

    def _make_room(self) -> bool:
        """Close the connection that is missed least, if there is one with nothing under way.

        Persistent connections are the norm of HL7 and mostly idle, so idleness alone is nobody's fault: those
        that never brought a message go first, then those of the host that holds most, then the longest idle.
        A sender that loses an idle connection opens another for its next message.
        """
        now = asyncio.get_running_loop().time()
        idle = [c for c in self.connections if c.may_give_way(now - self.limits.displace_after_s)]
        if not idle:
            return False
        least = min(idle, key=lambda c: (c.messages > 0, -self._hosts[c.host], c.active_at))
        self.counters["displaced_connections"] += 1
        self.told.tell("idle connection gave way", host=least.host, peer=least.peer)
        least.abort()
        return True

    def dismiss(self, connection: _Connection, host: str) -> None:
        """Forget a connection that is gone."""
        if connection in self.connections:
            self.connections.discard(connection)
            self._hosts[host] -= 1
            if not self._hosts[host]:
                del self._hosts[host]

    def submit(self, connection: _Connection, payload: bytes) -> None:
        """Queue a message for the next batch; from here on its bytes are held here."""
        self._under_way += 1
        self.held_bytes += len(payload)
        self._arrived.append((connection, InboundMessage(connection.peer, payload, self._clock.now())))
        if self._pump is None or self._pump.done():
            self._pump = asyncio.get_running_loop().create_task(self._work())

    def refuse(self, head: bytes, reason: str) -> bytes | None:
        """Write a rejection for a lost block."""
        return self._handler.refuse(head, reason)

    def weigh(self) -> None:
        """Read nobody while too much is held, and everybody again when it is not.

        What waits for its commit makes room by itself. Where nothing does, those who hold most are dropped: none of
        their messages was acknowledged, so they send them again.
        """
        if self._under_way and self.held_bytes > self.limits.pause_bytes:
            if not self.is_full:
                self.is_full = True
                self.counters["reading_paused"] += 1
                self.told.tell("reading paused", host="", peer="", reason="too much waits for its commit")
                for connection in self.connections:
                    connection.hold_reading()
            return
        while self.held_bytes > self.limits.max_buffered_bytes and self.connections:
            largest = max(self.connections, key=lambda c: c.held_bytes)
            self.counters["dropped_for_memory"] += 1
            self.told.tell(
                "block dropped", host=largest.host, peer=largest.peer, reason="too much is buffered"
            )
            largest.abort()
        if self.is_full:
            self.is_full = False
            for connection in list(self.connections):
                connection.go_on()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._arrived:
            count = min(len(self._arrived), self.limits.max_batch)
            batch = [self._arrived.popleft() for _ in range(count)]
            messages = [message for _, message in batch]
            failpoint("hl7.received")
            try:
                answers = await loop.run_in_executor(self._executor, self._handler.handle_batch, messages)
            except Exception as error:
                log.error("batch failed", count=count, error=type(error).__name__)
                answers = [HANG_UP] * count
            self.counters["messages"] += count
            self.counters["batches"] += 1
            failpoint("hl7.before_answer")
            self._under_way -= count
            self.held_bytes -= sum(len(message.payload) for message in messages)
            for (connection, _), answer in zip(batch, answers, strict=True):
                connection.deliver(answer)
            self.weigh()


class _Connection(asyncio.Protocol):
    """One peer: its framer, what of it waits, and its deadlines."""

    def __init__(self, listener: MllpListener) -> None:
        self._listener = listener
        self._framer = Framer(max_message_bytes=listener.limits.max_message_bytes)
        self._transport: asyncio.Transport | None = None
        self._pending: deque[Frame | FramingError] = deque()
        self._pending_bytes = 0
        self._under_way = False
        self._write_full = False
        self._close_when_done = False
        self._deadline: asyncio.TimerHandle | None = None
        self._write_deadline: asyncio.TimerHandle | None = None
        self._confirm: asyncio.TimerHandle | None = None
        self._handshake: asyncio.Task[None] | None = None
        self._junk_blocks = 0
        self._captured_by: object = ()
        """What was captured when this connection last looked."""
        self._overheard: Overheard | None = None
        self.host = ""
        self.peer = ""
        self.messages = 0
        """That came whole."""
        self.active_at = 0.0
        """When a byte last came or an answer left, by the loop's clock."""
        self.held_bytes = 0
        """Of the unfinished block and the messages that wait behind the one under way."""

    # --- asyncio's calls ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        name = transport.get_extra_info("peername") or ("0.0.0.0", 0)
        self.host = str(name[0]).partition("%")[0]
        self.peer = f"{self.host}:{name[1]}"
        self.active_at = asyncio.get_running_loop().time()
        reason = self._listener.admit(self, self.host)
        if reason is not None:
            self._listener.counters["refused_connections"] += 1
            self._listener.told.tell("connection refused", host=self.host, peer=self.peer, reason=reason)
            transport.abort()
            return
        if self._listener.taps.is_on:
            self._listen_in(is_new=True)
        raw = transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if self._listener.tls is not None:
            # The hand-shake comes after admission: connections that never finish it are counted, too.
            transport.pause_reading()
            self._handshake = asyncio.get_running_loop().create_task(self._start_tls(transport))
        elif self._listener.is_full:
            transport.pause_reading()

    async def _start_tls(self, plain: asyncio.Transport) -> None:
        limits = self._listener.limits
        context = self._listener.tls
        assert context is not None
        try:
            self._transport = await asyncio.get_running_loop().start_tls(
                plain,
                self,
                context,
                server_side=True,
                ssl_handshake_timeout=limits.tls_handshake_timeout_s,
                ssl_shutdown_timeout=1.0,
            )
        except (OSError, ssl.SSLError, asyncio.CancelledError) as error:
            self._listener.counters["tls_failures"] += 1
            self._listener.told.tell(
                "tls hand-shake failed", host=self.host, peer=self.peer, reason=type(error).__name__
            )
            plain.abort()
            self.connection_lost(None)
            return
        if self._listener.is_full:
            self.hold_reading()

    def data_received(self, data: bytes) -> None:
        self.active_at = asyncio.get_running_loop().time()
        if self._listener.taps.in_force is not self._captured_by:
            self._listen_in(is_new=False)
        if self._overheard is not None:
            self._overheard.received(data)
        events = self._framer.feed(data)
        if events:
            self._put(events)
            self._advance()
        else:
            self._account()
        self._watch(new_block=bool(events))
        if self._listener.held_bytes > self._listener.limits.pause_bytes:
            self._listener.weigh()

    def eof_received(self) -> bool:
        if self._overheard is not None:
            self._overheard.ended(by_peer=True)
        self._put(self._framer.eof())
        self._close_when_done = True
        self._advance()
        # A sender may close its half and still wait for the answer; TLS has no half.
        return self._listener.tls is None and self._transport is not None and not self._transport.is_closing()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._overheard is not None:
            self._overheard.closed(exc)
        self._listener.dismiss(self, self.host)
        self._forget_pending()
        self._framer.eof()
        self._account()
        for timer in (self._deadline, self._write_deadline, self._confirm):
            if timer is not None:
                timer.cancel()

    def pause_writing(self) -> None:
        self._write_full = True
        self._write_deadline = self._later(self._listener.limits.write_timeout_s, self._write_timed_out)

    def resume_writing(self) -> None:
        self._write_full = False
        if self._write_deadline is not None:
            self._write_deadline.cancel()
        self._advance()

    # --- the listener's calls ---

    def may_give_way(self, idle_since: float) -> bool:
        """Tell whether nothing of this peer is under way, also not unread, and has not been for a while."""
        transport = self._transport
        if transport is None or transport.is_closing() or self.active_at > idle_since:
            return False
        if self._under_way or self._pending or self._framer.in_block or transport.get_write_buffer_size():
            return False
        unread: bytes = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.FIONREAD, bytes(4))
        return not any(unread)

    def deliver(self, answer: Answer) -> None:
        """Write what became of the message under way, and go on with the next."""
        self._under_way = False
        self.active_at = asyncio.get_running_loop().time()
        self._junk_blocks = self._junk_blocks + 1 if answer.junk else 0
        if answer.junk:
            self._listener.told.tell("block without a header", host=self.host, peer=self.peer)
        if answer.messages and self._transport is not None and not self._transport.is_closing():
            self._write(b"".join(frame(message) for message in answer.messages))
        if answer.close or self._junk_blocks >= self._listener.limits.max_junk_blocks:
            self._forget_pending()
            self.close()
        else:
            self._advance()

    def hold_reading(self) -> None:
        """Read nothing until `go_on`: the listener holds enough."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()
            self._watch(new_block=True)

    def go_on(self) -> None:
        """Read again, where nothing else is in the way."""
        self._advance()

    def pause(self) -> None:
        """Take nothing more: the listener is stopping."""
        self._forget_pending()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def close(self) -> None:
        """Close once everything written has left."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._listener.dismiss(self, self.host)
        self._forget_pending()
        self._framer.eof()
        self._account()
        if self._transport is not None:
            self._transport.abort()

    def abort_if_idle(self) -> None:
        """Close at once unless something written has yet to leave."""
        if self._transport is not None and not self._transport.get_write_buffer_size():
            self._transport.abort()

    # --- how much is held ---

    def _put(self, events: Sequence[Frame | FramingError]) -> None:
        self._pending.extend(events)
        self._pending_bytes += sum(len(event.payload) for event in events if isinstance(event, Frame))

    def _forget_pending(self) -> None:
        self._pending.clear()
        self._pending_bytes = 0

    def _account(self) -> None:
        """Tell the listener how much more or less this peer holds than when it was told last."""
        held_bytes = self._framer.buffered_bytes + self._pending_bytes
        self._listener.held_bytes += held_bytes - self.held_bytes
        self.held_bytes = held_bytes

    # --- in order ---

    def _advance(self) -> None:
        """Go on with what waits: one message under way at a time, faults answered in their turn."""
        while self._pending and not self._under_way and not self._write_full and not self._listener.stopping:
            event = self._pending.popleft()
            if isinstance(event, Frame):
                self._pending_bytes -= len(event.payload)
                if not event.tidy:
                    self._listener.counters["untidy_blocks"] += 1
                self._under_way = True
                self.messages += 1
                self._listener.submit(self, event.payload)
            else:
                self._take_fault(event)
        self._account()
        if self._transport is None or self._transport.is_closing():
            return
        if self._close_when_done and not self._pending and not self._under_way:
            self.close()
        elif self._pending or self._listener.stopping or self._listener.is_full:
            self._transport.pause_reading()
        elif not self._transport.is_reading() and not self._close_when_done:
            self._transport.resume_reading()
            self._watch(new_block=True)

    def _take_fault(self, error: FramingError) -> None:
        fault = error.fault
        self._listener.counters[f"fault_{fault.name.lower()}"] += 1
        self._listener.told.tell("framing fault", host=self.host, peer=self.peer, reason=fault.name)
        if fault in (FramingFault.CORRUPT, FramingFault.TOO_LARGE) and self._transport is not None:
            answer = self._listener.refuse(error.head, fault.value)
            if answer is not None:
                self._write(frame(answer))
        if error.closes:
            self._forget_pending()
            self._close_when_done = True

    def _write(self, data: bytes) -> None:
        assert self._transport is not None
        if self._overheard is not None:
            self._overheard.sent(data)
        self._transport.write(data)

    def _listen_in(self, *, is_new: bool) -> None:
        """Look who captures what, when that has changed."""
        taps, transport, tap = self._listener.taps, self._transport, None
        self._captured_by = taps.in_force
        if taps.is_on and transport is not None:
            local, peer = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
            before = self._overheard.tap if self._overheard is not None else None
            tap = taps.tap(local[:2], peer[:2], is_new=is_new, before=before) if local and peer else None
        if tap is None:
            self._overheard = None
        elif self._overheard is None:
            self._overheard = Overheard(tap)
        else:
            self._overheard.tap = tap

    # --- deadlines ---

    def _watch(self, *, new_block: bool) -> None:
        """Run the deadline of an unfinished block; it begins anew only with a new block."""
        framer = self._framer
        if self._deadline is not None and (new_block or not framer.in_block or self._is_paused()):
            self._deadline.cancel()
            self._deadline = None
        if framer.in_block and self._deadline is None and not self._is_paused():
            self._deadline = self._later(self._listener.limits.frame_timeout_s, self._frame_timed_out)
        if self._confirm is not None:
            self._confirm.cancel()
            self._confirm = None
        if framer.awaits_confirmation:
            self._confirm = self._later(self._listener.limits.confirm_timeout_s, self._confirmed_by_silence)

    def _is_paused(self) -> bool:
        return self._transport is None or not self._transport.is_reading()

    def _later(self, delay_s: float, call: Callable[[], None]) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(delay_s, call)

    def _confirmed_by_silence(self) -> None:
        self._confirm = None
        self._put(self._framer.pause())
        self._advance()
        self._watch(new_block=True)

    def _frame_timed_out(self) -> None:
        self._deadline = None
        if not self._framer.in_block:
            return
        self._listener.counters["frame_timeouts"] += 1
        self._listener.told.tell("block not finished in time", host=self.host, peer=self.peer)
        self._framer.eof()
        self._close_when_done = True
        self._advance()

    def _write_timed_out(self) -> None:
        self._listener.counters["write_timeouts"] += 1
        self._listener.told.tell("peer does not read its answers", host=self.host, peer=self.peer)
        self.abort()


def run_listener(listener: MllpListener, stop: threading.Event, *, grace_s: float = 10.0) -> None:
    """Serve in this thread until `stop` is set by another one or by a signal handler."""

    async def serve() -> None:
        await listener.start()
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()

        def wait() -> None:
            stop.wait()
            with contextlib.suppress(RuntimeError):  # the loop may be gone already
                loop.call_soon_threadsafe(stopped.set)

        threading.Thread(target=wait, name="hl7-stop", daemon=True).start()
        await stopped.wait()
        await listener.stop(grace_s=grace_s)

    asyncio.run(serve())
