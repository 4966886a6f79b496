"""Runs a listener that serves the worklist and takes performed procedure steps."""

from __future__ import annotations

from typing import Self

from sqlalchemy import Engine

from broker.db.worklist_query import SqlWorklistReader
from broker.dicom.network.server import DicomServer
from broker.dicom.objects.answers import WorklistEncoder
from broker.dicom.services.mpps import PerformedStepService, performed_step_offer
from broker.dicom.services.worklist import WorklistService, worklist_offer
from broker.domain.orders import WorklistEntry
from broker.domain.steps import StepStatus
from broker.workflow.worklist import Worklist
from tests.worklist_database import StillClock, units_of_work


class WorklistListener:
    """Listens on a free port of this machine."""

    def __init__(self, engine: Engine) -> None:
        clock = StillClock()
        self._units = units_of_work(engine, clock)
        self._server = DicomServer(
            "127.0.0.1",
            0,
            offers=[
                worklist_offer(WorklistService(Worklist(SqlWorklistReader(engine), clock))),
                performed_step_offer(
                    PerformedStepService(self._units, clock=clock, encoder=WorklistEncoder())
                ),
            ],
            ae_title="BROKER",
        )

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()

    @property
    def port(self) -> int:
        return self._server.port

    def status_of(self, entry: WorklistEntry) -> StepStatus:
        with self._units() as uow:
            return uow.steps.get(entry.step.id).status
