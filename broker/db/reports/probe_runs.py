"""Reads what became of synthetic exams."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select

from broker.db.reports.reading import Reader, mappings
from broker.db.repositories.probe_runs import probe_run_of
from broker.db.schema import PROBE_RUN
from broker.errors import NotFound
from broker.workflow.probe_port import ProbeRun
from broker.workflow.reports_port import MOST_ROWS


class SqlProbeReports(Reader):
    """Implements the ProbeReports port."""

    def probe_runs(self, *, before: int | None = None, limit: int = 20) -> Sequence[ProbeRun]:
        """Answer the last exams that have ended, newest first; `before` is the id of the last one seen."""
        statement = (
            select(PROBE_RUN)
            .where(PROBE_RUN.c.ended_at.is_not(None))
            .order_by(PROBE_RUN.c.id.desc())
            .limit(max(1, min(limit, MOST_ROWS)))
        )
        if before is not None:
            statement = statement.where(PROBE_RUN.c.id < before)
        with self._reading() as connection:
            return [probe_run_of(row) for row in mappings(connection, statement)]

    def probe_run(self, run: int) -> ProbeRun:
        """Answer one, also while it runs. Raises NotFound."""
        with self._reading() as connection:
            found = mappings(connection, select(PROBE_RUN).where(PROBE_RUN.c.id == run))
        if not found:
            raise NotFound("There is no such synthetic exam.")
        return probe_run_of(found[0])
