"""Where listeners hand what is said, while somebody captures it. Nothing here may wait, nor fail a conversation."""

from __future__ import annotations

from typing import Protocol


class Tap(Protocol):
    """Hears one connection. What it hears before it knows who speaks is held, bounded, and dropped if it is another."""

    def named(self, name: str) -> None:
        """Take note who speaks: calling AE title, or sending application; empty: it did not say."""
        ...

    def unnamed(self) -> None:
        """Take note that from here on it may be somebody else (HL7: a new message)."""
        ...

    def received(self, data: bytes) -> None:
        """Take what the peer said."""
        ...

    def sent(self, data: bytes) -> None:
        """Take what we said."""
        ...

    def ended(self, *, by_peer: bool, reset: bool = False) -> None:
        """Take note that one direction has come to its end; with `reset` both have."""
        ...


class Taps(Protocol):
    """What a listener asks about captures."""

    is_on: bool
    """Somebody captures something: the only thing looked at while nobody does."""

    @property
    def in_force(self) -> object:
        """Answer another object whenever what is captured has changed."""
        ...

    def tap(
        self,
        local: tuple[str, int],
        peer: tuple[str, int],
        *,
        is_new: bool = True,
        before: Tap | None = None,
    ) -> Tap | None:
        """Answer what hears this connection from now on, going on where `before` was; None: nobody wants to."""
        ...


class NoTaps:
    """Captures nothing, ever."""

    is_on = False
    in_force: object = ()

    def tap(
        self,
        local: tuple[str, int],  # noqa: ARG002
        peer: tuple[str, int],  # noqa: ARG002
        *,
        is_new: bool = True,  # noqa: ARG002
        before: Tap | None = None,  # noqa: ARG002
    ) -> Tap | None:
        """Answer that nobody wants to hear."""
        return None
