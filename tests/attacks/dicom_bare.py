"""`python -m tests.attacks.dicom_bare PORT FOLDER [CERTIFICATE KEY]`: an SCP as pynetdicom's tutorial leaves it.

Its defaults, a few lines for each service, and time-outs far below the defaults of 30 and 60 s: what is still
open long after them is open for ever.
"""

import ssl
import sys
import time
from pathlib import Path

from pydicom.dataset import Dataset
from pynetdicom import AE, StoragePresentationContexts, evt
from pynetdicom.sop_class import ModalityPerformedProcedureStep, ModalityWorklistInformationFind, Verification

TIMEOUT_S = 2.0
MATCHES = 30_000
EVERY_SYNTAX = [
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.1.99",
]


def on_find(event):
    keys = event.identifier
    for number in range(MATCHES):
        entry = Dataset()
        entry.PatientName, entry.PatientID = "HAYDN^JOSEPH", f"PID{number}"
        if "RequestedProcedureDescription" in keys:
            entry.RequestedProcedureDescription = "CT CHEST WITH CONTRAST"
        yield 0xFF00, entry


def on_store(event):
    data_set = event.dataset
    data_set.file_meta = event.file_meta
    time.sleep(0.05)  # the disk
    name = str(event.request.AffectedSOPInstanceUID)
    data_set.save_as(folder / f"{name}.dcm", enforce_file_format=True)
    return 0x0000


def on_event_report(event):
    time.sleep(3.0)  # the database
    return 0x0000, Dataset()


port, folder = int(sys.argv[1]), Path(sys.argv[2])
ae = AE("BROKER")
ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = TIMEOUT_S
for sop_class in (Verification, ModalityWorklistInformationFind, ModalityPerformedProcedureStep):
    ae.add_supported_context(sop_class)
for offered in StoragePresentationContexts:
    ae.add_supported_context(offered.abstract_syntax, EVERY_SYNTAX)
tls = None
if len(sys.argv) > 3:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(sys.argv[3], sys.argv[4])
ae.start_server(
    ("127.0.0.1", port),
    ssl_context=tls,
    evt_handlers=[
        (evt.EVT_C_ECHO, lambda event: 0x0000),
        (evt.EVT_C_FIND, on_find),
        (evt.EVT_C_STORE, on_store),
        (evt.EVT_N_EVENT_REPORT, on_event_report),
    ],
)
