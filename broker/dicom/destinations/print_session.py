"""Talk to a printer: Basic Grayscale Print Management as SCU (PS3.4 annex H)."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import structlog
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, generate_uid

from broker.dicom.destinations.film import Grid
from broker.dicom.network.client import AcceptedContext, ClientAssociation, Proposal, Reply
from broker.dicom.network.dimse import Command, CommandField
from broker.dicom.network.failures import AssociationError
from broker.dicom.network.status import (
    ServiceKind,
    StatusClass,
    class_of,
    judge_error,
    judge_status,
    outcome_of,
)
from broker.dicom.network.transfer_syntaxes import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from broker.domain.delivery import Misconfigured, Rejected, RetryLater, Unknown

_log = structlog.get_logger()

GRAYSCALE_META: Final = "1.2.840.10008.5.1.1.9"
FILM_SESSION: Final = "1.2.840.10008.5.1.1.1"
FILM_BOX: Final = "1.2.840.10008.5.1.1.2"
IMAGE_BOX: Final = "1.2.840.10008.5.1.1.4"
PRINTER: Final = "1.2.840.10008.5.1.1.16"
PRINTER_INSTANCE: Final = "1.2.840.10008.5.1.1.17"
PRESENTATION_LUT: Final = "1.2.840.10008.5.1.1.23"

_PLAIN = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)
# PS3.4 H.2: the members of the meta class share its context. No compression on the way to a printer.
PROPOSALS: Final = (Proposal(GRAYSCALE_META, _PLAIN), Proposal(PRESENTATION_LUT, _PLAIN))

_STATUS_TAGS: Final = (0x21100010, 0x21100020)
EMPTY_PAGE: Final = frozenset({0xB602, 0xB603})
CROPPED: Final = frozenset({0xB609, 0xB60A})
TOO_LARGE: Final = frozenset({0xC603, 0xC605})
_ATTRIBUTE_REFUSED: Final = frozenset({0x0105, 0x0106})
_INDISPENSABLE: Final = frozenset({"ImageDisplayFormat", "ReferencedFilmSessionSequence"})
_PRINTER_TROUBLE_DELAY_S: Final = 60.0

Trouble = RetryLater | Misconfigured | Rejected | Unknown


class PrintFailed(Exception):
    """The printer did not do what was asked; `outcome` says what that means for the delivery."""

    def __init__(self, outcome: Trouble, *, status: int | None = None) -> None:
        super().__init__(outcome.reason)
        self.outcome = outcome
        self.status = status


@dataclass(frozen=True, slots=True)
class FilmBox:
    """A film box as the printer made it."""

    uid: str
    image_boxes: tuple[str, ...]


@dataclass(slots=True)
class PrintSession:
    """One film session on one association. Every method raises PrintFailed."""

    association: ClientAssociation
    destination: str
    uid: str | None = None
    presentation_lut: str | None = None
    warnings: list[int] = field(default_factory=list)
    _last_uid: str = ""

    def check_printer(self) -> str:
        """Ask the printer how it is (PS3.4 H.4.6); what it says, unless it is FAILURE."""
        reply = self._request(
            Command(
                field=CommandField.N_GET_RQ,
                requested_sop_class_uid=PRINTER,
                requested_sop_instance_uid=PRINTER_INSTANCE,
                attribute_identifier_list=_STATUS_TAGS,
            )
        )
        if class_of(ServiceKind.PRINT, reply.status) is StatusClass.FAILURE:
            return "the printer does not tell its status"
        said = self._decoded(reply)
        status = str(said.get("PrinterStatus") or "UNKNOWN").strip().upper()
        information = str(said.get("PrinterStatusInfo") or "").strip()[:64]
        words = f"{status} {information}".strip()
        if status == "FAILURE":
            raise PrintFailed(
                RetryLater(f"the printer reports {words}", first_delay_s=_PRINTER_TROUBLE_DELAY_S)
            )
        return words

    def begin(self, attributes: Mapping[str, Any]) -> None:
        """Create the film session, and a presentation LUT that says our pixels are P-values (PS3.4 H.4.1, H.4.9)."""
        reply = self._create(FILM_SESSION, attributes)
        self.uid = reply.command.affected_sop_instance_uid or self.uid
        lut_context = next(
            (one for one in self.association.contexts if one.abstract_syntax == PRESENTATION_LUT), None
        )
        if lut_context is not None:
            shape = Dataset()
            shape.PresentationLUTShape = "IDENTITY"
            command = Command(
                field=CommandField.N_CREATE_RQ,
                affected_sop_class_uid=PRESENTATION_LUT,
                affected_sop_instance_uid=str(generate_uid()),
            )
            reply = self._request(command, shape, context=lut_context)
            if class_of(ServiceKind.PRINT, reply.status) is not StatusClass.FAILURE:
                self.presentation_lut = (
                    reply.command.affected_sop_instance_uid or command.affected_sop_instance_uid
                )

    def new_film(self, grid: Grid, attributes: Mapping[str, Any]) -> FilmBox:
        """Create a film box and learn its image boxes (PS3.4 H.4.2)."""
        assert self.uid is not None
        wanted: dict[str, Any] = {
            "ImageDisplayFormat": grid.display_format,
            "ReferencedFilmSessionSequence": [_reference(FILM_SESSION, self.uid)],
            **attributes,
        }
        if self.presentation_lut is not None:
            wanted["ReferencedPresentationLUTSequence"] = [
                _reference(PRESENTATION_LUT, self.presentation_lut)
            ]
        reply = self._create(FILM_BOX, wanted)
        boxes = self._decoded(reply).get("ReferencedImageBoxSequence") or []
        uid = reply.command.affected_sop_instance_uid or self._last_uid
        image_boxes = tuple(str(box.ReferencedSOPInstanceUID) for box in boxes)
        if len(image_boxes) < grid.boxes:
            raise PrintFailed(Rejected("the printer made fewer image boxes than the layout has"))
        return FilmBox(uid, image_boxes)

    def set_image(
        self, film: FilmBox, position: int, pixels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
    ) -> int:
        """Give an image box its pixels, P-values of 8 or 12 bits; `position` counts from 1 (PS3.4 H.4.3)."""
        is_wide = pixels.dtype.itemsize == 2
        image = Dataset()
        image.SamplesPerPixel = 1
        image.PhotometricInterpretation = "MONOCHROME2"
        image.Rows, image.Columns = pixels.shape
        image.BitsAllocated = 16 if is_wide else 8
        image.BitsStored = 12 if is_wide else 8
        image.HighBit = image.BitsStored - 1
        image.PixelRepresentation = 0
        data = pixels.astype("<u2" if is_wide else "u1").tobytes()
        image.add_new("PixelData", "OW" if is_wide else "OB", data + b"\0" * (len(data) % 2))
        box = Dataset()
        box.ImageBoxPosition = position
        box.Polarity = "NORMAL"
        box.BasicGrayscaleImageSequence = Sequence([image])
        command = Command(
            field=CommandField.N_SET_RQ,
            requested_sop_class_uid=IMAGE_BOX,
            requested_sop_instance_uid=film.image_boxes[position - 1],
        )
        return self._checked(self._request(command, box)).status

    def print_film(self, film: FilmBox) -> int:
        """Print. From the moment this is sent, silence means that nobody knows (PS3.4 H.4.2.2.4)."""
        command = Command(
            field=CommandField.N_ACTION_RQ,
            requested_sop_class_uid=FILM_BOX,
            requested_sop_instance_uid=film.uid,
            action_type_id=1,
        )
        try:
            reply = _last(self.association.request(command, None, context=self._context()))
        except AssociationError as error:
            raise PrintFailed(
                Unknown(f"the film may have been printed, look at the printer ({error})")
            ) from error
        return self._checked(reply).status

    def end_film(self, film: FilmBox) -> None:
        """Delete the film box."""
        self._delete(FILM_BOX, film.uid)

    def end(self) -> None:
        """Delete the film session, which takes with it what it still holds."""
        if self.uid is not None:
            self._delete(FILM_SESSION, self.uid)
            self.uid = None

    # ── inside ──────────────────────────────────────────────────────────────────────────────────────────

    def _create(self, sop_class: str, attributes: Mapping[str, Any]) -> Reply:
        """N-CREATE; what the printer refuses and can be done without is left out and asked once more."""
        self._last_uid = str(generate_uid())
        command = Command(
            field=CommandField.N_CREATE_RQ,
            affected_sop_class_uid=sop_class,
            affected_sop_instance_uid=self._last_uid,
        )
        if sop_class == FILM_SESSION:
            self.uid = self._last_uid
        reply = self._request(command, _data_set(attributes))
        if reply.status in _ATTRIBUTE_REFUSED:
            _log.warning(
                "printer refused attributes",
                destination=self.destination,
                status=f"{reply.status:04X}",
                sop_class=sop_class,
            )
            needed = {keyword: value for keyword, value in attributes.items() if keyword in _INDISPENSABLE}
            reply = self._request(command, _data_set(needed))
        return self._checked(reply)

    def _delete(self, sop_class: str, uid: str) -> None:
        """N-DELETE; what is printed stays printed, and the printer forgets the rest with the association."""
        command = Command(
            field=CommandField.N_DELETE_RQ, requested_sop_class_uid=sop_class, requested_sop_instance_uid=uid
        )
        try:
            self._checked(self._request(command))
        except PrintFailed as failure:
            _log.info("printer kept a film object", destination=self.destination, reason=str(failure))

    def _context(self) -> AcceptedContext:
        return self.association.context_for(GRAYSCALE_META)

    def _request(
        self, command: Command, data_set: Dataset | None = None, *, context: AcceptedContext | None = None
    ) -> Reply:
        """Send a request and answer the reply; nothing has been printed when this fails."""
        try:
            context = context or self._context()
            encoded = None if data_set is None else _encoded(data_set, UID(context.transfer_syntax))
            return _last(self.association.request(command, encoded, context=context))
        except AssociationError as error:
            raise PrintFailed(outcome_of(judge_error(error), str(error))) from error

    def _checked(self, reply: Reply) -> Reply:
        """Pass a success or a warning on, raise what a failure means."""
        verdict = judge_status(ServiceKind.PRINT, reply.status)
        if verdict is not None:
            raise PrintFailed(outcome_of(verdict, f"{reply.status:04X}"), status=reply.status)
        if reply.status:
            self.warnings.append(reply.status)
        return reply

    def _decoded(self, reply: Reply) -> Dataset:
        """Decode the data set of an answer."""
        syntax = UID(self._context().transfer_syntax)
        try:
            return read_dataset(
                io.BytesIO(reply.data_set or b""),
                is_implicit_VR=syntax.is_implicit_VR,
                is_little_endian=True,
            )
        except Exception as error:
            raise PrintFailed(
                RetryLater(f"the printer's answer cannot be read ({type(error).__name__})", max_tries=3)
            ) from error


def _last(replies: Any) -> Reply:
    """Answer the final reply."""
    reply: Reply = [*replies][-1]
    return reply


def _reference(sop_class: str, uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class
    item.ReferencedSOPInstanceUID = uid
    return item


def _data_set(attributes: Mapping[str, Any]) -> Dataset:
    ds = Dataset()
    for keyword, value in attributes.items():
        if keyword == "ImageDisplayFormat":
            # ST is single-valued: its backslash separates nothing (PS3.5 6.2).
            ds.add_new(0x20100010, "ST", value)
        else:
            setattr(ds, keyword, Sequence(value) if isinstance(value, list) else value)
    return ds


def _encoded(ds: Dataset, syntax: UID) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_implicit_VR = syntax.is_implicit_VR
    buffer.is_little_endian = True
    write_dataset(buffer, ds)
    return buffer.getvalue()
