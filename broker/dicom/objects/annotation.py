"""Write on a film whose picture it is: no film leaves without the patient's name, id and dates.

The text stands in bands above and below the picture, never over it. Nothing that identifies the patient is cut,
guessed or drawn as empty boxes: what the font cannot draw is written in another group of the name, or the film
is refused with the reason.
"""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features
from pydicom.dataset import Dataset

from broker.dicom.objects.codestreams import Unrenderable
from broker.dicom.objects.rendering import WHITE, PValues
from broker.domain.values import parse_date
from broker.workflow.own_disk import is_of_the_machine

BUILT_IN_FONT = Path(__file__).with_name("fonts") / "DejaVuSans.ttf"
"""Draws Latin, Greek, Cyrillic, Hebrew, Arabic and more; other scripts need a font of the site."""

TEXT_HEIGHT_MM = 3.2
SMALLEST_TEXT_HEIGHT_MM = 1.8
LARGEST_SHARE_OF_BOX = 0.4
BOX_MARGIN_MM = 1.5
_COVERAGE_SIZE = 32
_PRIVATE_USE = "\U0010fffd"
_JOINERS = frozenset("\u200c\u200d")
_NEEDS_SHAPING = frozenset({"R", "AL"})


class Unannotatable(Unrenderable):
    """The picture cannot be marked with its patient."""


_Line = list[tuple[float, str]]
"""Texts with their places from the left."""


@dataclass(frozen=True, slots=True)
class Caption:
    """What is written on one picture."""

    identity: tuple[str, ...]
    """Never left out, never cut: name, id, birth date, study date, laterality."""
    details: tuple[str, ...]
    """Written as far as there is room."""


class Lettering:
    """Draws captions in one font."""

    def __init__(self, font: Path | None = None) -> None:
        try:
            self._file = (font or BUILT_IN_FONT).read_bytes()  # once, not for every size
            self._font = lru_cache(maxsize=32)(self._load)
            self._font(_COVERAGE_SIZE)
        except OSError as error:
            if is_of_the_machine(error):
                raise
            raise Unannotatable("the font file cannot be read") from error
        self._draws = lru_cache(maxsize=4096)(self._can_draw_character)

    def can_draw(self, text: str) -> bool:
        """Tell whether every character of `text` has a glyph and its script can be set."""
        return all(self._draws(character) for character in text)

    def written(
        self, caption: Caption, *, width: int, height: int, dots_per_mm: float
    ) -> tuple[PValues, PValues]:
        """Answer the bands above and below a picture, white on black, as wide as the box.

        Raises Unannotatable when they would take more of the box than is bearable.
        """
        most = int(height * LARGEST_SHARE_OF_BOX)
        for height_mm in (TEXT_HEIGHT_MM, 2.5, SMALLEST_TEXT_HEIGHT_MM):
            font = self._font(max(int(height_mm * dots_per_mm), 6))
            above = _lines(caption.identity, font, width, may_drop=False)
            below = (_lines(caption.details, font, width, may_drop=True) or [])[:1]
            line_height = int(sum(font.getmetrics()) * 1.05)
            if above is not None and (len(above) + len(below)) * line_height <= most:
                return self._band(above, font, width, line_height), self._band(
                    below, font, width, line_height
                )
        raise Unannotatable("the image box is too small for the patient's data")

    def _load(self, size: int) -> ImageFont.FreeTypeFont:
        return ImageFont.truetype(io.BytesIO(self._file), size)

    def _can_draw_character(self, character: str) -> bool:
        if unicodedata.bidirectional(character) in _NEEDS_SHAPING and not features.check("raqm"):
            return False
        category = unicodedata.category(character)
        # Replacement characters are lost text; controls could turn or hide what stands there.
        if category in {"Cc", "Cs", "Co", "Cn"} or character == "\ufffd":
            return False
        if category == "Cf":
            return character in _JOINERS
        if character.isspace() or unicodedata.combining(character):
            return True
        font = self._font(_COVERAGE_SIZE)
        return _shape(font, character) != _shape(font, _PRIVATE_USE)

    def _band(
        self, lines: list[_Line], font: ImageFont.FreeTypeFont, width: int, line_height: int
    ) -> PValues:
        image = Image.new("L", (width, max(len(lines) * line_height, 1)))
        draw = ImageDraw.Draw(image)
        for number, line in enumerate(lines):
            for x, text in line:
                # One by one: a name written from right to left must not turn its neighbours around.
                draw.text((x, number * line_height), text, fill=255, font=font)
        band = np.asarray(image, dtype=np.uint16) * (WHITE // 255)
        return band if lines else band[:0]


def caption_of(header: Dataset, lettering: Lettering, *, frame: int, frames: int) -> Caption:
    """Say what must stand on a picture. Raises Unannotatable when it does not say whose it is."""
    name = _name(header.get("PatientName"), lettering.can_draw)
    patient_id = _text(header, "PatientID")
    if not patient_id:
        raise Unannotatable("the image has no patient id")
    laterality = (
        _text(header, "ImageLaterality") or _text(header, "Laterality") or _text(header, "FrameLaterality")
    )
    identity = [
        name,
        f"ID {patient_id}",
        f"born {_date(header, 'PatientBirthDate')}",
        f"study {_date(header, 'StudyDate')}",
    ]
    if laterality:
        identity.append(f"laterality {laterality}")
    for part in identity:
        if not lettering.can_draw(part):
            raise Unannotatable("the font cannot draw the patient's data; the option `font` may name another")
    details = [
        _text(header, "Modality"),
        _numbered("series", header, "SeriesNumber"),
        _numbered("image", header, "InstanceNumber"),
        f"frame {frame + 1} of {frames}" if frames > 1 else "",
        _numbered("view", header, "ViewPosition"),
        _numbered("acc.", header, "AccessionNumber"),
        _text(header, "InstitutionName"),
    ]
    return Caption(
        identity=tuple(identity), details=tuple(part for part in details if part and lettering.can_draw(part))
    )


def with_caption(
    picture: Callable[[int, int], PValues],
    caption: Caption,
    lettering: Lettering,
    *,
    width: int,
    height: int,
    dots_per_mm: float,
) -> PValues:
    """Compose a box: the bands, and between them what `picture(width, height)` answers, centred on black.

    A margin keeps the text of one box from being read as its neighbour's.
    """
    margin = round(BOX_MARGIN_MM * dots_per_mm)
    inner_width, inner_height = max(width - 2 * margin, 1), max(height - 2 * margin, 1)
    above, below = lettering.written(caption, width=inner_width, height=inner_height, dots_per_mm=dots_per_mm)
    room = inner_height - above.shape[0] - below.shape[0]
    pixels = picture(inner_width, room)
    box = np.zeros((height, width), dtype=np.uint16)
    top = margin
    for part, height_of_part in ((above, above.shape[0]), (pixels, room), (below, below.shape[0])):
        first_row = top + (height_of_part - part.shape[0]) // 2
        first_column = (width - part.shape[1]) // 2
        box[first_row : first_row + part.shape[0], first_column : first_column + part.shape[1]] = part
        top += height_of_part
    return box


def _name(value: Any, can_draw: Callable[[str], bool]) -> str:
    """Write a name in the groups that can be drawn: ideographic first, the alphabetic one beside it."""
    text = str(value or "").strip()
    if not text.strip("^= "):
        raise Unannotatable("the image has no patient name")
    groups = [_readable_name(group) for group in [*text.split("="), "", ""][:3]]
    alphabetic, ideographic, phonetic = groups
    drawable = [group for group in (ideographic, alphabetic) if group and can_draw(group)]
    if not drawable and phonetic and can_draw(phonetic):
        drawable = [phonetic]
    if not drawable:
        raise Unannotatable("the font cannot draw the patient's name; the option `font` may name another")
    return drawable[0] if len(drawable) == 1 else f"{drawable[0]} ({drawable[1]})"


def _readable_name(group: str) -> str:
    """Write `FAMILY^Given^Middle^Prefix^Suffix` as `FAMILY, Given Middle, Prefix Suffix`."""
    parts = [" ".join(part.split()) for part in [*group.split("^"), "", "", "", "", ""][:5]]
    family, given, middle, prefix, suffix = parts
    return ", ".join(
        words
        for words in (
            family,
            " ".join(filter(None, (given, middle))),
            " ".join(filter(None, (prefix, suffix))),
        )
        if words
    )


def _text(header: Dataset, keyword: str) -> str:
    value = header.get(keyword)
    return " ".join(str(value).split()) if value is not None else ""


def _numbered(word: str, header: Dataset, keyword: str) -> str:
    text = _text(header, keyword)
    return f"{word} {text}" if text else ""


def _date(header: Dataset, keyword: str) -> str:
    """Write a date so that no two countries read it differently."""
    text = _text(header, keyword)
    day = parse_date(text) if text else None
    if day is None:
        return text or "unknown"
    return day.isoformat()


def _lines(
    parts: tuple[str, ...], font: ImageFont.FreeTypeFont, width: int, *, may_drop: bool
) -> list[_Line] | None:
    """Set parts into lines that fit; None when a word that may not be dropped is wider than a line."""
    margin = font.size / 4
    gap = font.size * 1.2
    lines: list[_Line] = []
    x = width * 2.0  # no line yet
    for part in parts:
        whole = font.getlength(part) <= width - 2 * margin
        if not whole and may_drop:
            continue
        # A part that is wider than a line is continued on the next; none is ever cut.
        pieces = [part] if whole else part.split(" ")
        for number, piece in enumerate(pieces):
            length = font.getlength(piece)
            if length > width - 2 * margin:
                return None
            x += (gap if number == 0 else font.getlength(" ")) if lines else 0
            if x + length > width - margin:
                lines.append([])
                x = margin
            lines[-1].append((x, piece))
            x += length
    return lines


def _shape(font: ImageFont.FreeTypeFont, character: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(character)
    return mask.size, bytes(mask)
