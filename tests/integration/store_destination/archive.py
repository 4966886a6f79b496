"""A strict archive that is not ours, and what a test sends it and waits for."""

from __future__ import annotations

import threading
import time

import pydicom
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE, evt
from pynetdicom import _config as pynetdicom_config

from tests.parcels import an_image

pynetdicom_config.LOG_HANDLER_LEVEL = "none"
ALL_PLAIN = [ImplicitVRLittleEndian, ExplicitVRLittleEndian]


class Scp:
    """A strict storage SCP by pynetdicom; `answer(n, event)` gives the status of the n-th C-STORE, from 1."""

    def __init__(self, answer=None, *, contexts=None, ae_title="PACS", require_called=False):
        self.received: list[str] = []
        self.data_sets = []
        self.associations = 0
        self.refuses = False
        self.answer = answer or (lambda number, event: 0x0000)
        ae = AE(ae_title)
        ae.require_called_aet = require_called
        ae.maximum_associations = 20
        for sop_class, syntaxes in contexts or [(CTImageStorage, ALL_PLAIN), (MRImageStorage, ALL_PLAIN)]:
            ae.add_supported_context(sop_class, syntaxes)
        ae.add_supported_context("1.2.840.10008.1.1")
        self.lock = threading.Lock()
        self.server = ae.start_server(
            ("127.0.0.1", 0),
            block=False,
            evt_handlers=[(evt.EVT_C_STORE, self.on_store), (evt.EVT_ACCEPTED, self.on_accepted)],
        )
        self.port = self.server.server_address[1]

    def on_accepted(self, event):
        self.associations += 1
        if self.refuses:
            event.assoc.abort()

    def on_store(self, event):
        with self.lock:
            self.received.append(str(event.request.AffectedSOPInstanceUID))
            number = len(self.received)
            self.data_sets.append((event.context.transfer_syntax, event.request.DataSet.getvalue()))
        return self.answer(number, event)

    def close(self):
        # It polls every half second; nothing here waits for that.
        threading.Thread(target=self.server.shutdown, daemon=True).start()


def uids(items):
    return [item.sop_instance_uid for item in items]


def wait_for(condition, timeout_s=10.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def compressed(syntax, **attributes):
    ds = an_image(rows=64, columns=64, **attributes)
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.compress(syntax, generate_instance_uid=False)
    return ds
