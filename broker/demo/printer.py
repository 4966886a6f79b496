"""A film printer: a Basic Grayscale Print SCP (PS3.4 Annex H) that writes PNG files instead of film."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from pynetdicom import AE, evt

from broker.demo.scanner import VERIFICATION

META_CLASS = "1.2.840.10008.5.1.1.9"
FILM_SESSION, FILM_BOX = "1.2.840.10008.5.1.1.1", "1.2.840.10008.5.1.1.2"
IMAGE_BOX = "1.2.840.10008.5.1.1.4"
PRESENTATION_LUT, ANNOTATION_BOX = "1.2.840.10008.5.1.1.23", "1.2.840.10008.5.1.1.15"

_SUCCESS, _NO_SUCH_OBJECT, _PROCESSING_FAILURE = 0x0000, 0x0112, 0x0110
_DPI = 75
_SIZES_IN = {"8INX10IN": (8, 10), "10INX12IN": (10, 12), "11INX14IN": (11, 14), "14INX17IN": (14, 17)}
_DEFAULT_SIZE_IN = (14, 17)

Gray = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Film:
    """A film that came out of the printer."""

    path: Path
    pictures: tuple[Gray, ...]
    """As they were sent, 8 bit."""
    page: Gray
    copies: int


@dataclass
class _Box:
    attributes: Dataset
    image_boxes: list[str]
    pictures: dict[str, Gray] = field(default_factory=dict)


@dataclass
class Printer:
    """A printer and the films it made."""

    ae_title: str
    port: int
    folder: Path
    films: list[Film] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: dict[str, Dataset] = {}
        self._boxes: dict[str, _Box] = {}

    def __enter__(self) -> Self:
        entity = AE(ae_title=self.ae_title)
        for uid in (META_CLASS, PRESENTATION_LUT, ANNOTATION_BOX, VERIFICATION):
            entity.add_supported_context(uid, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        handlers: list[Any] = [
            (evt.EVT_N_GET, self._get),
            (evt.EVT_N_CREATE, self._create),
            (evt.EVT_N_SET, self._set),
            (evt.EVT_N_ACTION, self._print),
            (evt.EVT_N_DELETE, self._delete),
        ]
        self._server: Any = entity.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()

    def _get(self, _: Any) -> tuple[int, Dataset]:
        """Say that the printer is ready."""
        state = Dataset()
        state.PrinterStatus = "NORMAL"
        state.PrinterStatusInfo = "NORMAL"
        return _SUCCESS, state

    def _create(self, event: Any) -> tuple[int, Dataset | None]:
        """Create a film session or a film box."""
        kind = event.request.AffectedSOPClassUID
        uid = event.request.AffectedSOPInstanceUID or generate_uid()
        asked: Dataset = event.attribute_list
        answer = Dataset()
        answer.update(asked)
        answer.SOPClassUID, answer.AffectedSOPInstanceUID = kind, uid
        with self._lock:
            if kind == FILM_SESSION:
                self._sessions[uid] = asked
            elif kind == FILM_BOX:
                columns, rows = grid_of(str(asked.ImageDisplayFormat))
                boxes: list[str] = [generate_uid() for _ in range(columns * rows)]
                self._boxes[uid] = _Box(asked, boxes)
                answer.ReferencedImageBoxSequence = [_reference(IMAGE_BOX, box) for box in boxes]
            elif kind != PRESENTATION_LUT:
                self.problems.append(f"N-CREATE of {kind}")
                return _PROCESSING_FAILURE, None
        del answer.SOPClassUID
        del answer.AffectedSOPInstanceUID
        if not event.request.AffectedSOPInstanceUID:
            answer.AffectedSOPInstanceUID = uid
        return _SUCCESS, answer

    def _set(self, event: Any) -> tuple[int, Dataset | None]:
        """Put a picture into an image box."""
        uid = event.request.RequestedSOPInstanceUID
        with self._lock:
            for box in self._boxes.values():
                if uid in box.image_boxes:
                    try:
                        box.pictures[uid] = picture_of(event.modification_list)
                    except (AttributeError, ValueError, IndexError) as problem:
                        self.problems.append(f"N-SET of an image box: {problem}")
                        return _PROCESSING_FAILURE, None
                    return _SUCCESS, None
        return _SUCCESS if event.request.RequestedSOPClassUID != IMAGE_BOX else _NO_SUCH_OBJECT, None

    def _print(self, event: Any) -> tuple[int, Dataset | None]:
        """Expose a film box, or all of a session."""
        uid = event.request.RequestedSOPInstanceUID
        with self._lock:
            session = next(iter(self._sessions.values()), Dataset())
            boxes = [self._boxes[uid]] if uid in self._boxes else list(self._boxes.values())
            if not boxes:
                return _NO_SUCH_OBJECT, None
            for box in boxes:
                page = lay_out(box.attributes, [box.pictures.get(image) for image in box.image_boxes])
                path = self.folder / f"film-{len(self.films) + 1}.png"
                Image.fromarray(page).save(path)
                pictures = tuple(box.pictures.values())
                self.films.append(Film(path, pictures, page, int(session.get("NumberOfCopies", 1) or 1)))
        return _SUCCESS, None

    def _delete(self, event: Any) -> int:
        """Forget a film box or a session."""
        uid = event.request.RequestedSOPInstanceUID
        with self._lock:
            self._boxes.pop(uid, None)
            if self._sessions.pop(uid, None) is not None:
                self._boxes.clear()
        return _SUCCESS


def grid_of(display_format: str) -> tuple[int, int]:
    r"""Answer columns and rows of `STANDARD\C,R` (PS3.3 C.13.3)."""
    name, _, numbers = display_format.partition("\\")
    if name != "STANDARD":
        raise ValueError(f"this printer knows STANDARD formats, not {name}")
    columns, rows = (int(number) for number in numbers.split(","))
    return columns, rows


def picture_of(image_box: Dataset) -> Gray:
    """Read the picture of an image box as 8 bit P-values, white high (PS3.3 C.13.5)."""
    (item,) = image_box.BasicGrayscaleImageSequence
    shape = (int(item.Rows), int(item.Columns))
    kind = np.dtype("<u2") if int(item.BitsAllocated) == 16 else np.dtype("u1")
    stored = np.frombuffer(item.PixelData, kind)[: shape[0] * shape[1]].reshape(shape).astype(np.uint32)
    top = (1 << int(item.BitsStored)) - 1
    if int(stored.max(initial=0)) > top:
        raise ValueError("a pixel is larger than its Bits Stored")
    values = stored * 255 // top
    inverted = (item.PhotometricInterpretation == "MONOCHROME1") != (
        image_box.get("Polarity", "NORMAL") == "REVERSE"
    )
    return np.asarray(255 - values if inverted else values, dtype=np.uint8)


def lay_out(film_box: Dataset, pictures: list[Gray | None]) -> Gray:
    """Draw the film: every picture as large as its box allows, undistorted, row by row."""
    width_in, height_in = _SIZES_IN.get(str(film_box.get("FilmSizeID", "")), _DEFAULT_SIZE_IN)
    if film_box.get("FilmOrientation", "PORTRAIT") == "LANDSCAPE":
        width_in, height_in = height_in, width_in
    page = Image.new("L", (width_in * _DPI, height_in * _DPI), 0)
    columns, rows = grid_of(str(film_box.ImageDisplayFormat))
    box_width, box_height = page.width // columns, page.height // rows
    for position, picture in enumerate(pictures):
        if picture is None:
            continue
        drawn = Image.fromarray(picture)
        scale = min(box_width / drawn.width, box_height / drawn.height)
        drawn = drawn.resize((max(1, int(drawn.width * scale)), max(1, int(drawn.height * scale))))
        left = position % columns * box_width + (box_width - drawn.width) // 2
        top = position // columns * box_height + (box_height - drawn.height) // 2
        page.paste(drawn, (left, top))
    return np.asarray(page)


def _reference(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
    return item
