"""Whoever prints patient data leaves an event, before it is printed: as on the pages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from broker.cli.users import caller

if TYPE_CHECKING:
    from broker.bootstrap import Broker
    from broker.workflow.audit import Shown
    from broker.workflow.selection import Selection
    from broker.workflow.shown import Line


def listed(broker: Broker, lines: Iterable[Line], *, command: str, searched: str = "") -> None:
    """Somebody is shown rows of patients. Raises DatabaseUnavailable: what cannot be written is not shown."""
    from broker.workflow.shown import shown_in

    broker.access.audit.viewed(
        caller(), shown_in(lines), page=f"broker {command}", listed=True, searched=searched
    )


def selected(broker: Broker, selections: Iterable[Selection], *, command: str) -> None:
    """Somebody is shown which deliveries were meant; a selection may name a study. Raises DatabaseUnavailable."""
    from broker.workflow.shown import shown_as_meant

    shown = shown_as_meant(selections)
    broker.access.audit.viewed(caller(), shown, page=f"broker {command}", listed=True)


def opened(broker: Broker, shown: Shown, *, command: str) -> None:
    """Somebody is shown one object. Raises DatabaseUnavailable."""
    broker.access.audit.viewed(caller(), [shown], page=f"broker {command}")
