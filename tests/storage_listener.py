"""A listener that stores what it gets, on a real disk and a real database; and data sets to send to it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

from broker.dicom.network.client import ClientAssociation, Proposal, open_association
from broker.dicom.network.negotiation import Offers
from broker.dicom.network.server import DicomServer
from broker.dicom.network.verification import verification_offer
from broker.dicom.services.storage import StorageService, storage_offers
from broker.files.disk import LocalDisk
from broker.files.store import DiskFileStore
from broker.workflow.clock import SystemClock
from broker.workflow.images import ResendPolicy, receive_images
from broker.workflow.unit_of_work import UnitsOfWork

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"

# The listener as a program of its own, to be killed: its arguments are a database and a folder, and it prints its port.
SERVER = """
import sys, time
from pathlib import Path
from broker.db.engine import open_engine
from broker.db.unit_of_work import SqlUnitsOfWork
from broker.workflow.clock import SystemClock
from tests.bundled_files import DATA, data_set_of
from tests.fakes.task_queue import RecordingTaskQueue
from tests.storage_listener import a_file_store, a_listener
engine = open_engine(sys.argv[1])
uows = SqlUnitsOfWork(engine, RecordingTaskQueue(), SystemClock())
server = a_listener(a_file_store(Path(sys.argv[2])), lambda: uows)
print(server.port, flush=True)
time.sleep(600)
"""


def a_file_store(root: Path, disk: LocalDisk | None = None) -> DiskFileStore:
    store = DiskFileStore(
        root,
        SystemClock(),
        implementation_class_uid="2.25.1",
        implementation_version_name="TEST",
        free_reserve_bytes=1,
        free_reserve_percent=0,
        ready_files=2,  # a test process has many stores, and each keeps these open
        disk=disk,
    )
    store.prepare()
    return store


def a_listener(
    files: DiskFileStore,
    units_of_work: Callable[[], UnitsOfWork],
    *,
    accept_unknown_storage: bool = False,
    port: int = 0,
) -> DicomServer:
    """Start a listener; `units_of_work` is asked anew for every batch, so that a test may take the database away."""
    policy = ResendPolicy(frozenset({"archive"}))

    def receive(batch):
        return receive_images(batch, units_of_work(), SystemClock(), policy=policy)

    service = StorageService(files, receive)
    offers = Offers(
        [verification_offer()],
        otherwise=storage_offers(service, accept_unknown_storage=accept_unknown_storage),
    )
    server = DicomServer("127.0.0.1", port, offers=offers, ae_title="BROKER")
    server.start()
    return server


def an_association(port: int, *contexts: tuple[str, str]) -> ClientAssociation:
    return open_association(
        "127.0.0.1",
        port,
        calling_ae_title="CT1",
        called_ae_title="BROKER",
        contexts=[Proposal(sop_class, (syntax,)) for sop_class, syntax in contexts or [(CT, EXPLICIT)]],
    )


def element(group: int, number: int, vr: str, value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    raw += (b"\0" if vr == "UI" else b" ") * (len(raw) % 2)
    if vr in ("OB", "OW", "SQ", "UN"):
        return struct.pack("<HH2sHL", group, number, vr.encode(), 0, len(raw)) + raw
    return struct.pack("<HH2sH", group, number, vr.encode(), len(raw)) + raw


def a_data_set(
    uid: str = "1.2.3.4",
    *,
    sop_class: str | None = CT,
    study: str | None = "1.2.3",
    series: str | None = "1.2.3.1",
    pixels: bytes = bytes(512),
) -> bytes:
    """Encode a small CT image, Explicit VR Little Endian."""
    parts = [
        element(8, 0x16, "UI", sop_class) if sop_class is not None else b"",
        element(8, 0x18, "UI", uid),
        element(8, 0x50, "SH", "A1"),
        element(8, 0x60, "CS", "CT"),
        element(0x10, 0x20, "LO", "PID1"),
        element(0x20, 0x0D, "UI", study) if study is not None else b"",
        element(0x20, 0x0E, "UI", series) if series is not None else b"",
        element(0x7FE0, 0x10, "OW", pixels),
    ]
    return b"".join(parts)


def store(
    association: ClientAssociation,
    data: bytes,
    uid: str = "1.2.3.4",
    *,
    sop_class: str = CT,
    syntax: str = EXPLICIT,
) -> int:
    """Send one object, answer the status."""
    context = association.context_for(sop_class, syntax)
    reply = association.store(sop_class_uid=sop_class, sop_instance_uid=uid, context=context, payload=data)
    return reply.status
