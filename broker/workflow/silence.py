"""Who is silent that usually is not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo

from broker.domain.rhythm import Silence
from broker.workflow.overview_port import SourceLine

_BY_HARM = (Silence.SILENT, Silence.QUIET, Silence.NORMAL, Silence.UNKNOWN)


@dataclass(frozen=True, slots=True)
class SourceState:
    """Somebody who talks to us, and what the time since is worth."""

    kind: str
    name: str
    facility: str
    peer: str
    last_at: datetime
    last_what: str
    silence: Silence
    usual_gap: timedelta | None
    reason: str


def judge_sources(lines: Iterable[SourceLine], *, now: datetime, zone: tzinfo) -> list[SourceState]:
    """Judge every source by its own rhythm, the silent first."""
    states = []
    for line in lines:
        found = line.rhythm.judge(line.last_at, now=now, zone=zone)
        states.append(
            SourceState(
                kind=line.kind,
                name=line.name,
                facility=line.facility,
                peer=line.peer,
                last_at=line.last_at,
                last_what=line.last_what,
                silence=found.silence,
                usual_gap=found.usual_gap,
                reason=found.reason,
            )
        )
    return sorted(
        states,
        key=lambda state: (_BY_HARM.index(state.silence), state.kind != "sender", state.name, state.facility),
    )
