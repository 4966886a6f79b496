"""Verifies the chain of events part by part, from its beginning to its end and again, at a bounded cost."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Engine, select

from broker.db.engine import reading
from broker.db.schema import SEAL_HEAD
from broker.db.seal import START, links

PART = 5000
_MOST_PROBLEMS = 100


class SealWatch:
    """Remembers how far it has come; a new process begins anew."""

    def __init__(self, engine: Engine, *, part: int = PART) -> None:
        """Begin at the beginning."""
        self._engine = engine
        self._part = part
        self._number, self._seal = 0, START
        self._found: list[str] = []
        self._of_last_walk: list[str] = []

    @property
    def problems(self) -> Sequence[str]:
        """Answer what is wrong: found on this walk, or on the last one, which this has not reached the end of."""
        return list(dict.fromkeys((*self._of_last_walk, *self._found)))

    def step(self) -> None:
        """Verify the next part; at the end, compare it with what was sealed. Raises DatabaseUnavailable."""
        with reading(self._engine) as connection:
            part = links(connection, self._number, self._seal, limit=self._part)
            if part.count < self._part:
                row = connection.execute(select(SEAL_HEAD).where(SEAL_HEAD.c.id == 1)).mappings().first()
                head = (int(row["seal_no"]), bytes(row["seal"])) if row else (0, START)
                if head != (part.number, part.seal):
                    part.problems.append(
                        f"the chain ends with seal {part.number}, it was sealed up to {head[0]}"
                    )
        self._found = [*self._found, *part.problems][:_MOST_PROBLEMS]
        self._number, self._seal = part.number, part.seal
        if part.count < self._part:
            self._of_last_walk, self._found = self._found, []
            self._number, self._seal = 0, START
