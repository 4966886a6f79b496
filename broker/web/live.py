"""One stream of what changes: made once a second for all who look, however many they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from broker.errors import BrokerError

log = structlog.get_logger()


class TooManyViewers(Exception):
    """Every place is taken."""


@dataclass(slots=True, eq=False)
class Viewer:
    """Somebody who looks, and what they have seen."""

    who: Hashable = None
    is_out: bool = False
    """May look no longer."""
    seen: dict[str, int] = field(default_factory=dict)
    turns: int = 0


class LiveOverview:
    """Renders sections while anybody looks and hands each viewer those that are new to them."""

    def __init__(
        self,
        render: Callable[[], Mapping[str, str]],
        *,
        turned_out: Callable[[Collection[Any]], Collection[Any]] = lambda _: (),
        ask_every: int = 2,
        every_s: float = 1.0,
        most_viewers: int = 64,
        most_turns: int = 600,
    ) -> None:
        """Render nothing before somebody looks.

        `turned_out` is asked every so many turns, once for all who look, which of them may look no longer.
        A stream ends after `most_turns`: the browser opens another and proves again who it is.
        """
        self._render = render
        self._turned_out = turned_out
        self._ask_every = ask_every
        self._asked_turns = 0
        self._every_s = every_s
        self._most_viewers = most_viewers
        self._most_turns = most_turns
        self._viewers: set[Viewer] = set()
        self._sections: dict[str, tuple[int, str, bytes]] = {}
        self._turn = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._fails = False
        self.is_closed = False
        self.rendered = 0

    @property
    def viewers(self) -> int:
        """Answer how many look."""
        return len(self._viewers)

    def check_room(self) -> None:
        """Raise TooManyViewers unless one more may look."""
        if self.is_closed or len(self._viewers) >= self._most_viewers:
            raise TooManyViewers

    def close(self) -> None:
        """End all streams within a turn; may be called from any thread."""
        self.is_closed = True

    async def watch(self, who: Hashable = None) -> AsyncIterator[bytes]:
        """Answer server-sent events until the viewer goes, or may look no longer."""
        viewer = Viewer(who)
        self._viewers.add(viewer)
        try:
            yield b"retry: 2000\n\n"
            while viewer.turns < self._most_turns and not self.is_closed:
                turn = self._turning()
                await turn.wait()
                if viewer.is_out:
                    return
                viewer.turns += 1
                new = b"".join(
                    event
                    for name, (version, _, event) in self._sections.items()
                    if self._is_new(viewer, name, version)
                )
                if new:
                    yield new
        finally:
            self._viewers.discard(viewer)

    def _is_new(self, viewer: Viewer, name: str, version: int) -> bool:
        if viewer.seen.get(name) == version:
            return False
        viewer.seen[name] = version
        return True

    def _turning(self) -> asyncio.Event:
        """Answer what the next turn sets; the first who looks starts the turns."""
        if self._task is None or self._task.done():
            self._turn = asyncio.Event()
            self._task = asyncio.get_running_loop().create_task(self._turn_while_watched())
        return self._turn

    async def _turn_while_watched(self) -> None:
        clock = asyncio.get_running_loop()
        while self._viewers and not self.is_closed:
            began = clock.time()
            await self._take_turn()
            done, self._turn = self._turn, asyncio.Event()
            done.set()
            # What takes long is not made more often for it.
            await asyncio.sleep(max(self._every_s - (clock.time() - began), self._every_s / 4))
        self._turn.set()

    async def _take_turn(self) -> None:
        try:
            await self._turn_out()
            sections = await asyncio.to_thread(self._render)
        except BrokerError as error:
            if not self._fails:
                log.warning("the overview cannot be read", error=type(error).__name__)
            self._fails = True
            return  # nobody is told a time, and their page says that it is old
        self._fails = False
        self.rendered += 1
        for name, text in sections.items():
            version, before, _ = self._sections.get(name, (0, None, b""))
            if text != before:
                self._sections[name] = (version + 1, text, event(name, text))

    async def _turn_out(self) -> None:
        self._asked_turns += 1
        if self._asked_turns < self._ask_every:
            return
        gone = set(await asyncio.to_thread(self._turned_out, {viewer.who for viewer in self._viewers}))
        self._asked_turns = 0
        for viewer in self._viewers:
            viewer.is_out = viewer.is_out or viewer.who in gone


def event(name: str, text: str) -> bytes:
    """Write one server-sent event."""
    lines = "".join(f"data: {line}\n" for line in text.splitlines() if line.strip())
    return f"event: {name}\n{lines}\n".encode()
