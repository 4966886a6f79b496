"""Worklist queries of one scanner: date, station and modality, 20 entries answered, on one open association."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import ExplicitVRLittleEndian

from broker.db.engine import open_engine
from broker.db.unit_of_work import SqlUnitsOfWork
from broker.dicom.network.client import ClientAssociation, Proposal, open_association
from broker.dicom.network.dimse import Command, CommandField
from broker.dicom.objects.answers import WorklistEncoder
from broker.workflow.clock import SystemClock
from tests.fakes.task_queue import RecordingTaskQueue
from tests.performance.measuring import OURS, Measured, in_turn, per_second
from tests.performance.parties import AE_TITLE, WORKLIST_PLUGIN, Ours, dcmtk, orthanc
from tests.worklist_entries import an_entry

WORKLIST = "1.2.840.10008.5.1.4.31"
IMPLICIT = "1.2.840.10008.1.2"
MATCHES, STEPS_PER_ORDER, PER_COMMIT = 20, 50, 2_000
TODAY, MODALITIES = "20261121", ("CT", "MR", "CR", "US")


def worklist_small(folder: Path) -> Iterator[Measured]:
    """Query a list of 1,000 entries."""
    yield _compare(folder, 1_000, rounds=5)


def worklist_large(folder: Path) -> Iterator[Measured]:
    """Query a list of 100,000 entries."""
    yield _compare(folder, 100_000, rounds=3)


def _compare(folder: Path, entries: int, *, rounds: int) -> Measured:
    ours = Ours(folder / "ours")
    fill_ours(ours.database_url, entries)
    files = folder / "wl" / AE_TITLE
    fill_files(files, entries)
    with ExitStack() as stack:
        stack.enter_context(ours.listening())
        ports = {
            OURS: ours.port,
            "DCMTK wlmscpfs": stack.enter_context(dcmtk("wlmscpfs", "-dfp", files.parent)),
        }
        if WORKLIST_PLUGIN.exists():
            ports["Orthanc"] = stack.enter_context(orthanc(folder / "orthanc", worklist=files))
        scanners = {name: stack.enter_context(scanner(port)) for name, port in ports.items()}
        parties = {
            name: lambda scanner=scanner: per_second(lambda: query(scanner), at_least_s=0.5)
            for name, scanner in scanners.items()
        }
        query(scanners[OURS])
        return in_turn(f"worklist query, {entries:,} entries", "queries/s", parties, rounds=rounds)


def scanner(port: int) -> ClientAssociation:
    """Open an association that asks for worklists."""
    return open_association(
        "127.0.0.1",
        port,
        calling_ae_title="CT01",
        called_ae_title=AE_TITLE,
        contexts=[Proposal(WORKLIST, (IMPLICIT,))],
    )


def query(association: ClientAssociation) -> None:
    """Ask for today's list of one scanner and hold the peer to the number of answers."""
    command = Command(field=CommandField.C_FIND_RQ, affected_sop_class_uid=WORKLIST)
    replies = list(association.request(command, IDENTIFIER))
    pending = sum(reply.is_pending for reply in replies)
    if pending != MATCHES or replies[-1].status:
        raise AssertionError(f"{pending} answers, status {replies[-1].status:04X}")


def _identifier() -> bytes:
    ds, step = Dataset(), Dataset()
    for keyword in [
        "AccessionNumber",
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "PatientSex",
        "StudyInstanceUID",
        "RequestedProcedureDescription",
        "RequestedProcedureID",
    ]:
        setattr(ds, keyword, "")
    step.Modality, step.ScheduledStationAETitle = "CT", "CT01"
    step.ScheduledProcedureStepStartDate = TODAY
    for keyword in [
        "ScheduledProcedureStepStartTime",
        "ScheduledPerformingPhysicianName",
        "ScheduledProcedureStepDescription",
        "ScheduledProcedureStepID",
    ]:
        setattr(step, keyword, "")
    ds.ScheduledProcedureStepSequence = [step]
    buffer = DicomBytesIO()
    buffer.is_little_endian = buffer.is_implicit_VR = True
    write_dataset(buffer, ds)
    return buffer.getvalue()


IDENTIFIER = _identifier()


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
    """Write entries through the repositories, as the use cases do."""
    encoder, now = WorklistEncoder(), datetime(2026, 11, 21, 7, tzinfo=UTC)
    engine = open_engine(address)
    units_of_work = SqlUnitsOfWork(engine, RecordingTaskQueue(), SystemClock())
    for start in range(0, entries, PER_COMMIT):
        with units_of_work() as uow:
            for number in range(start, min(start + PER_COMMIT, entries)):
                date, station, modality = place(number)
                entry = an_entry(
                    number + 1, stations=(station,), modality=modality, start=(date, f"{number % 24:02}0000")
                )
                if number % STEPS_PER_ORDER == 0:
                    patient = uow.patients.add(entry.patient, now=now)
                    order = uow.orders.add(replace(entry.order, patient=patient.id), now=now)
                    procedure = uow.orders.add_procedure(replace(entry.procedure, order=order.id), now=now)
                whole = replace(
                    entry,
                    patient=patient,
                    order=order,
                    procedure=procedure,
                    step=replace(entry.step, procedure=procedure.id),
                )
                uow.steps.add(whole, elements=encoder.encode(whole), now=now)
            uow.commit()
    engine.dispose()


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
