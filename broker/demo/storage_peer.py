"""Storage peers: an archive and a CAD. They take images, check them, and keep a ledger."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field
from typing import Any, Self

from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, evt

from broker.demo.pixels import STORAGE_CLASSES
from broker.demo.scanner import VERIFICATION

_SUCCESS, _CANNOT_UNDERSTAND = 0x0000, 0xC000


@dataclass(frozen=True, slots=True)
class Received:
    """What a storage peer notes of an image."""

    sop_instance_uid: str
    study_instance_uid: str
    sha256: str
    modality: str
    body_part: str
    localizer: bool
    patient_name: str
    pixels: tuple[int, ...]
    """Shape of the decoded picture."""


@dataclass
class StoragePeer:
    """A storage SCP. It can be switched on late, as after a power cut."""

    ae_title: str
    port: int
    received: list[Received] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._server: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.shutdown()

    def switch_on(self) -> None:
        """Begin to answer."""
        entity = AE(ae_title=self.ae_title)
        entity.require_called_aet = True
        for uid in (*STORAGE_CLASSES, VERIFICATION):
            entity.add_supported_context(uid, [ExplicitVRLittleEndian, "1.2.840.10008.1.2"])
        self._server = entity.start_server(
            ("127.0.0.1", self.port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)]
        )

    def _store(self, event: Any) -> int:
        """Take one image; an image nobody can show is refused, as an archive would."""
        data = event.request.DataSet.getvalue()
        try:
            image = event.dataset
            image.file_meta = event.file_meta
            noted = Received(
                sop_instance_uid=str(image.SOPInstanceUID),
                study_instance_uid=str(image.StudyInstanceUID),
                sha256=hashlib.sha256(data).hexdigest(),
                modality=str(image.Modality),
                body_part=str(image.get("BodyPartExamined", "")),
                localizer="LOCALIZER" in image.get("ImageType", []),
                patient_name=str(image.get("PatientName", "")),
                pixels=image.pixel_array.shape,
            )
        except Exception:
            return _CANNOT_UNDERSTAND
        with self._lock:
            self.received.append(noted)
        return _SUCCESS

    def of_study(self, study_instance_uid: str) -> list[Received]:
        """List what came of one study, in its order of arrival."""
        with self._lock:
            return [image for image in self.received if image.study_instance_uid == study_instance_uid]
