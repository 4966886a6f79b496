"""The passport of a device: what has to be typed into it, and what it is offered then."""

from __future__ import annotations

from dataclasses import dataclass

from broker.workflow.devices import KnownDevice


@dataclass(frozen=True, slots=True)
class Setting:
    """One thing to type, or to know."""

    name: str
    value: str
    about: str


@dataclass(frozen=True, slots=True)
class OfferedService:
    """One service a device may ask for."""

    name: str
    sop_class: str
    transfer_syntaxes: str
    port: int


@dataclass(frozen=True, slots=True)
class Passport:
    """Everything an engineer needs who stands before the device."""

    ae_title: str
    """Of the device."""
    known: KnownDevice | None
    host: str | None
    """Ours; None: every address of this machine."""
    is_local: bool
    """Only devices on this very machine reach us."""
    settings: tuple[Setting, ...]
    services: tuple[OfferedService, ...]
