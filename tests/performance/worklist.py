"""Worklist queries of one scanner: date, station and modality, 20 entries answered, on one open association."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from broker.dicom.network.dimse import Command, CommandField
from tests.performance.entries import MATCHES, TODAY, WORKLIST, fill_files, fill_ours
from tests.performance.measuring import OURS, Growth, Measured, in_turn, per_second
from tests.performance.parties import AE_TITLE, WORKLIST_PLUGIN, Ours, dcmtk, orthanc
from tests.performance.wire import Wire, associate_request, message

GROWTH = (100, 1_000, 10_000, 100_000, 1_000_000)
WARM_UP = 20


def worklist_small(folder: Path) -> Iterator[Measured]:
    """Query a list of 1,000 entries."""
    yield _compare(folder, 1_000, rounds=5)


def worklist_large(folder: Path) -> Iterator[Measured]:
    """Query a list of 100,000 entries."""
    yield _compare(folder, 100_000, rounds=3)


def worklist_growth(folder: Path) -> Iterator[Growth]:
    """Query ever longer lists, ours alone."""
    points: dict[int, float] = {}
    for entries in GROWTH:
        home = folder / str(entries)
        ours = Ours(home)
        fill_ours(ours.database_url, entries)
        with ours.listening(), scanner(ours.port) as one:
            for _ in range(WARM_UP):
                query(one)
            rates = [per_second(lambda one=one: query(one), at_least_s=0.5) for _ in range(5)]
        points[entries] = 1_000 / statistics.median(rates)
        shutil.rmtree(home)
    yield Growth("worklist query, 20 answers", "ms", "entries", points)


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
        for _ in range(WARM_UP):
            query(scanners[OURS])
        return in_turn(f"worklist query, {entries:,} entries", "queries/s", parties, rounds=rounds)


@contextmanager
def scanner(port: int) -> Iterator[Wire]:
    """Open an association that asks for worklists."""
    with Wire(port, ASSOCIATION) as wire:
        yield wire


def query(wire: Wire) -> None:
    """Ask for today's list of one scanner and hold the peer to the number of answers."""
    pending = wire.ask(QUERY)
    if pending != MATCHES:
        raise AssertionError(f"{pending} answers")


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


ASSOCIATION = associate_request([WORKLIST])
QUERY = message(
    Command(field=CommandField.C_FIND_RQ, message_id=1, affected_sop_class_uid=WORKLIST, priority=0),
    _identifier(),
)
