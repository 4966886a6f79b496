"""A printer that is not ours, and what it was given to print."""

from __future__ import annotations

import re
import threading

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from pynetdicom import AE, evt
from pynetdicom import _config as pynetdicom_config

pynetdicom_config.LOG_HANDLER_LEVEL = "none"
GRAYSCALE_META = "1.2.840.10008.5.1.1.9"
FILM_BOX = "1.2.840.10008.5.1.1.2"
FILM_SESSION = "1.2.840.10008.5.1.1.1"
IMAGE_BOX = "1.2.840.10008.5.1.1.4"
PRESENTATION_LUT = "1.2.840.10008.5.1.1.23"


class Printer:
    """A printer by pynetdicom that keeps what it is told; `says` overrides statuses by operation."""

    def __init__(self, *, status="NORMAL", info="NORMAL", lut=True, grids=None):
        self.status, self.info, self.grids = status, info, grids
        self.operations: list[str] = []
        self.films: list[dict[int, Dataset]] = []
        self.film_attributes: list[Dataset] = []
        self.session_attributes: list[Dataset] = []
        self.printed: list[dict[int, Dataset]] = []
        self.says: dict[str, list[int] | int] = {}
        self.on_action = None
        ae = AE("IHEFULL")
        ae.add_supported_context(GRAYSCALE_META, [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
        if lut:
            ae.add_supported_context(PRESENTATION_LUT, [ImplicitVRLittleEndian])
        handlers = [
            (evt.EVT_N_GET, self.on_get),
            (evt.EVT_N_CREATE, self.on_create),
            (evt.EVT_N_SET, self.on_set),
            (evt.EVT_N_ACTION, self.on_n_action),
            (evt.EVT_N_DELETE, self.on_delete),
        ]
        self.server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.port = self.server.server_address[1]

    def answer(self, operation):
        self.operations.append(operation)
        said = self.says.get(operation, 0)
        return said.pop(0) if isinstance(said, list) and said else said if isinstance(said, int) else 0

    def on_get(self, event):
        ds = Dataset()
        ds.PrinterStatus, ds.PrinterStatusInfo = self.status, self.info
        return self.answer("get printer"), ds

    def on_create(self, event):
        request = event.request
        attributes = event.attribute_list
        made = Dataset()
        made.update(attributes)
        if request.AffectedSOPClassUID == FILM_SESSION:
            self.session_attributes.append(attributes)
            return self.answer("create session"), made
        if request.AffectedSOPClassUID == PRESENTATION_LUT:
            return self.answer("create lut"), made
        status = self.answer("create film")
        if (status >= 0x8000 and status < 0xB000) or status >= 0xC000 or 0x0100 <= status < 0x0300:
            return status, None
        self.film_attributes.append(attributes)
        match = re.fullmatch(r"STANDARD\\(\d+),(\d+)", str(attributes.ImageDisplayFormat))
        assert match, attributes.ImageDisplayFormat
        made.ReferencedImageBoxSequence = Sequence()
        for _ in range(int(match[1]) * int(match[2])):
            box = Dataset()
            box.ReferencedSOPClassUID, box.ReferencedSOPInstanceUID = IMAGE_BOX, generate_uid()
            made.ReferencedImageBoxSequence.append(box)
        self.films.append({})
        return status, made

    def on_set(self, event):
        status = self.answer("set image")
        if status < 0xC000:
            image = event.modification_list
            self.films[-1][int(image.ImageBoxPosition)] = image
        return status, event.modification_list

    def on_n_action(self, event):
        status = self.answer("print")
        if self.on_action is not None:
            self.on_action(event)
        if status == 0 or 0xB000 <= status < 0xC000:
            self.printed.append(self.films[-1])
        return status, None

    def on_delete(self, event):
        what = "film" if event.request.RequestedSOPClassUID == FILM_BOX else "session"
        return self.answer(f"delete {what}")

    def close(self):
        threading.Thread(target=self.server.shutdown, daemon=True).start()


def pixels_of(image_box):
    image = image_box.BasicGrayscaleImageSequence[0]
    kind = "<u2" if image.BitsAllocated == 16 else "u1"
    return np.frombuffer(image.PixelData, kind)[: image.Rows * image.Columns].reshape(
        image.Rows, image.Columns
    )
