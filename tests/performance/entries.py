"""Fills the lists that are asked: our database, and the folders DCMTK and Orthanc read."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from broker.db.engine import open_engine
from broker.db.unit_of_work import SqlUnitsOfWork
from broker.dicom.objects.answers import WorklistEncoder
from broker.workflow.clock import SystemClock
from tests.fakes.task_queue import RecordingTaskQueue
from tests.worklist_entries import an_entry

WORKLIST = "1.2.840.10008.5.1.4.31"
MATCHES, STEPS_PER_ORDER = 20, 50
TODAY, MODALITIES = "20261121", ("CT", "MR", "CR", "US")
# Stand in the model for what differs from entry to entry; everything keeps its length.
_ORDER, _STEP, _STATION, _MODALITY, _TIME = "7111111", "7222222", "YYYY", "ZZ", "080000"
_WORDS = (_ORDER, _STEP, _STATION, _MODALITY, TODAY, _TIME)
_OF_ORDERS = ("patient", "imaging_order", "requested_procedure")
_REFERENCES = frozenset({"id", "patient", "order", "procedure", "step"})


def place(number: int) -> tuple[str, str, str]:
    """Answer date, station and modality of an entry: the first are today's of CT01, the rest are others'."""
    if number < MATCHES:
        return TODAY, "CT01", "CT"
    modality = MODALITIES[number % len(MODALITIES)]
    # Three months of a hospital with 40 rooms; the asked room has its share of the other days.
    day = number // 40 % 90
    date = f"2026{9 + day // 30:02}{1 + day % 30:02}"
    room = 1 + number % 40
    if date == TODAY and modality == "CT" and room == 1:
        room = 41
    return date, f"{modality}{room:02}", modality


def fill_ours(address: str, entries: int) -> None:
    """Write entries into our SQLite file: one through the repositories, the others after its model, by the million."""
    _write_model(address)
    with closing(sqlite3.connect(address.removeprefix("sqlite:///"), isolation_level=None)) as database:
        database.row_factory = sqlite3.Row
        model = {
            table: dict(database.execute(f"SELECT * FROM {table}").fetchone())
            for table in (*_OF_ORDERS, "scheduled_procedure_step", "step_station")
        }
        database.execute("PRAGMA synchronous=OFF")
        database.execute("PRAGMA cache_size=-524288")
        database.execute("BEGIN")
        for table, row in model.items():
            database.execute(f"DELETE FROM {table}")
            columns, values = ", ".join(f'"{name}"' for name in row), ", ".join("?" * len(row))
            database.executemany(
                f"INSERT INTO {table} ({columns}) VALUES ({values})",
                _after_model(row, entries, is_of_order=table in _OF_ORDERS),
            )
        database.execute("COMMIT")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _write_model(address: str) -> None:
    """Write one entry as the use cases do."""
    now = datetime(2026, 11, 21, 7, tzinfo=UTC)
    engine = open_engine(address)
    with SqlUnitsOfWork(engine, RecordingTaskQueue(), SystemClock())() as uow:
        entry = an_entry(int(_ORDER), stations=(_STATION,), modality=_MODALITY, start=(TODAY, _TIME))
        patient = uow.patients.add(entry.patient, now=now)
        order = uow.orders.add(replace(entry.order, patient=patient.id), now=now)
        procedure = uow.orders.add_procedure(replace(entry.procedure, order=order.id), now=now)
        step = replace(entry.step, procedure=procedure.id, scheduled_procedure_step_id=f"S{_STEP}")
        whole = replace(entry, patient=patient, order=order, procedure=procedure, step=step)
        uow.steps.add(whole, elements=WorklistEncoder().encode(whole), now=now)
        uow.commit()
    engine.dispose()


def _after_model(row: dict[str, Any], entries: int, *, is_of_order: bool) -> Iterator[tuple[Any, ...]]:
    """Answer the rows of a table: the model with the numbers, place and time of each entry."""
    kept = [(name, value, _words_in(value)) for name, value in row.items()]
    for number in range(0, entries, STEPS_PER_ORDER if is_of_order else 1):
        order = number // STEPS_PER_ORDER
        date, station, modality = place(number)
        of_step = {"id", "step"} if not is_of_order else set()
        words = (f"{order:07}", f"{number:07}", station, modality, date, f"{number % 24:02}0000")
        values = []
        for name, value, places in kept:
            if name in _REFERENCES:
                values.append((number if name in of_step else order) + 1)
                continue
            for at in places:
                old, new = _WORDS[at], words[at]
                value = (  # noqa: PLW2901
                    value.replace(old.encode(), new.encode())
                    if isinstance(value, bytes)
                    else value.replace(old, new)
                )
            values.append(value)
        yield tuple(values)


def _words_in(value: object) -> tuple[int, ...]:
    """Answer which words of the model stand in a value."""
    if isinstance(value, bytes):
        return tuple(at for at, word in enumerate(_WORDS) if word.encode() in value)
    return tuple(at for at, word in enumerate(_WORDS) if isinstance(value, str) and word in value)


def fill_files(folder: Path, entries: int) -> None:
    """Write the same list as DCMTK and Orthanc read it: a file for each entry."""
    folder.mkdir(parents=True)
    (folder / "lockfile").touch()
    ds, step = Dataset(), Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.AccessionNumber, ds.PatientID, ds.RequestedProcedureID = "A7777777", "P7777777", "R7777777"
    ds.PatientName, ds.PatientBirthDate, ds.PatientSex = "HAYDN^A7777777", "17320331", "M"
    ds.StudyInstanceUID = "1.2.826.0.1.17777777"
    ds.RequestedProcedureDescription = "CT CHEST"
    step.Modality, step.ScheduledStationAETitle = "ZZ", "YYYY"
    step.ScheduledProcedureStepStartDate, step.ScheduledProcedureStepStartTime = TODAY, "080000"
    step.ScheduledPerformingPhysicianName = "SALOMON^JOHANN"
    step.ScheduledProcedureStepDescription = "CHEST WITH CONTRAST "
    step.ScheduledProcedureStepID = "S7777777"
    ds.ScheduledProcedureStepSequence = [step]
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = WORKLIST
    ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    template = buffer.getvalue()
    for number in range(entries):
        date, station, modality = place(number)
        content = (
            template.replace(b"7777777", b"%07d" % number)
            .replace(b"YYYY", station.encode())
            .replace(b"ZZ", modality.encode())
            .replace(TODAY.encode(), date.encode())
        )
        (folder / f"{number:07}.wl").write_bytes(content)
