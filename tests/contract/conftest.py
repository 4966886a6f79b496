"""What tests of stored things share: a transaction of one's own, and what people are shown of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from broker.db.reports import SqlReports
from broker.workflow.unit_of_work import UnitOfWork


@pytest.fixture
def reports(engine) -> SqlReports:
    """Answer the reports of the database under test."""
    return SqlReports(engine)


@pytest.fixture
def store(uow_factory) -> Callable[[Callable[[UnitOfWork], Any]], Any]:
    """Store something in a transaction of its own: `store(lambda uow: …)`."""

    def run(action: Callable[[UnitOfWork], Any]) -> Any:
        with uow_factory() as uow:
            answer = action(uow)
            uow.commit()
        return answer

    return run
