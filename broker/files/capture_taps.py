"""Listens in for captures: who is heard by the address they call from, and by the name they give."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from broker.files.capture_store import CaptureStore
from broker.files.capture_writer import CaptureWriter, Flow, Running
from broker.workflow.capture_taps import Tap
from broker.workflow.captures_port import Capture

MOST_HELD_BYTES: Final = 64 * 1024
"""Of a connection of which it is not known yet who speaks."""


class CaptureTaps:
    """Implements Taps for the listeners of one protocol in this process."""

    def __init__(
        self,
        store: CaptureStore,
        protocol: str,
        *,
        now_ns: Callable[[], int] = time.time_ns,
        writer: CaptureWriter | None = None,
    ) -> None:
        """Hear nobody before `follow`."""
        self._protocol = protocol
        self._now_ns = now_ns
        self.writer = writer or CaptureWriter(store, protocol)
        self.in_force: tuple[Running, ...] = ()
        self.is_on = False

    def follow(self, captures: Iterable[Capture]) -> None:
        """Take note of what is captured from now on."""
        self.in_force = self.writer.follow(one for one in captures if one.protocol == self._protocol)
        self.is_on = bool(self.in_force)

    def stop(self) -> None:
        """Write what was heard, and hear no more."""
        self.is_on, self.in_force = False, ()
        self.writer.stop()

    def tap(
        self,
        local: tuple[str, int],
        peer: tuple[str, int],
        *,
        is_new: bool = True,
        before: Tap | None = None,
    ) -> Tap | None:
        """Answer what hears this connection from now on, going on where `before` was; None: nobody wants to."""
        now_ns = self._now_ns()
        opened_ns = now_ns if is_new else None
        heard = before.flows if isinstance(before, CaptureTap) else {}
        flows = {
            running: heard.get(running) or Flow(running, local, peer, opened_ns=opened_ns)
            for running in self.in_force
            if now_ns < running.until_ns and _covers(running.capture.address, peer[0])
        }
        if not flows:
            return None
        return CaptureTap(self.writer, flows, self._now_ns, before=before)


class CaptureTap:
    """Implements Tap: hands what is said to the captures it is for."""

    def __init__(
        self,
        writer: CaptureWriter,
        flows: Mapping[Running, Flow],
        now_ns: Callable[[], int],
        *,
        before: Tap | None = None,
    ) -> None:
        self._writer = writer
        self._now_ns = now_ns
        self.flows = flows
        self._any = [flow for flow in flows.values() if not flow.running.capture.name]
        self._named = [flow for flow in flows.values() if flow.running.capture.name]
        heard = before.hearing if isinstance(before, CaptureTap) else []
        self.hearing: list[Flow] = [*self._any, *(flow for flow in self._named if flow in heard)]
        self._held: list[tuple[int, bytes, bool]] | None = [] if self._named and before is None else None
        self._held_bytes = 0

    def named(self, name: str) -> None:
        """Go on for those who want this one, beginning with what was held."""
        if self._held is None:
            return
        wanting = [flow for flow in self._named if flow.running.capture.name == name]
        for at_ns, data, by_peer in self._held:
            for flow in wanting:
                self._writer.put(flow, at_ns, data, by_peer=by_peer)
        self.hearing = [*self._any, *wanting]
        self._drop()

    def unnamed(self) -> None:
        """Hold what comes until somebody says who it is."""
        if self._named:
            self.hearing, self._held, self._held_bytes = self._any, [], 0

    def received(self, data: bytes) -> None:
        """Take what the peer said."""
        self._hear(data, by_peer=True)

    def sent(self, data: bytes) -> None:
        """Take what we said."""
        self._hear(data, by_peer=False)

    def ended(self, *, by_peer: bool, reset: bool = False) -> None:
        """Take the end of a direction; who was never heard has none."""
        now_ns = self._now_ns()
        for flow in (*self._any, *self._named):
            self._writer.put(flow, now_ns, b"", by_peer=by_peer, reset=reset)

    def _hear(self, data: bytes, *, by_peer: bool) -> None:
        now_ns = self._now_ns()
        for flow in self.hearing:
            self._writer.put(flow, now_ns, data, by_peer=by_peer)
        if self._held is not None:
            self._held_bytes += len(data)
            self._held.append((now_ns, data, by_peer))
            if self._held_bytes > MOST_HELD_BYTES:
                self._drop()

    def _drop(self) -> None:
        self._held, self._held_bytes = None, 0


def _covers(network: str, address: str) -> bool:
    if not network:
        return True
    ip = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None)
    return (mapped or ip) in ipaddress.ip_network(network, strict=False)
