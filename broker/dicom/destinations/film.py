"""Plan films: which pictures stand on which film, in what grid, in how many dots."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import groupby

from pydicom.dataset import Dataset

from broker.domain.values import fold_name
from broker.workflow.destinations_port import ParcelItem

MM_PER_INCH = 25.4
_INCHES = re.compile(r"(\d+(?:_\d+)?)INX(\d+(?:_\d+)?)IN\Z")
_CENTIMETRES = re.compile(r"(\d+)CMX(\d+)CM\Z")
_NAMED = {"A4": (210.0, 297.0), "A3": (297.0, 420.0)}
# Columns and rows on a standing sheet. Printers take these; many refuse others, like 5 columns of 1.
USUAL_GRIDS = ((1, 1), (1, 2), (2, 2), (2, 3), (3, 3), (3, 4), (3, 5), (4, 4), (4, 5), (4, 6), (5, 6), (5, 7))
# What printers leave unprinted around the sheet.
MARGIN_MM = 8.0


class FilmSize(Enum):
    """Film sizes of PS3.3 C.13.3."""

    IN_8X10 = "8INX10IN"
    IN_8_5X11 = "8_5INX11IN"
    IN_10X12 = "10INX12IN"
    IN_10X14 = "10INX14IN"
    IN_11X14 = "11INX14IN"
    IN_11X17 = "11INX17IN"
    IN_14X14 = "14INX14IN"
    IN_14X17 = "14INX17IN"
    CM_24X24 = "24CMX24CM"
    CM_24X30 = "24CMX30CM"
    A4 = "A4"
    A3 = "A3"

    @property
    def millimetres(self) -> tuple[float, float]:
        """Answer width and height, standing."""
        if self.value in _NAMED:
            return _NAMED[self.value]
        if match := _INCHES.match(self.value):
            width, height = (float(side.replace("_", ".")) * MM_PER_INCH for side in match.groups())
            return width, height
        match = _CENTIMETRES.match(self.value)
        assert match is not None
        return float(match[1]) * 10, float(match[2]) * 10


class Orientation(Enum):
    """How the sheet stands (PS3.3 C.13.3)."""

    PORTRAIT = "PORTRAIT"
    LANDSCAPE = "LANDSCAPE"


@dataclass(frozen=True, slots=True)
class Grid:
    """Columns and rows of image boxes on a film."""

    columns: int
    rows: int

    @property
    def boxes(self) -> int:
        """Answer how many pictures fit."""
        return self.columns * self.rows

    @property
    def display_format(self) -> str:
        """Answer the Image Display Format (PS3.3 C.13.3)."""
        return f"STANDARD\\{self.columns},{self.rows}"


@dataclass(frozen=True, slots=True)
class Sheet:
    """The sheet and the resolution it is filled with."""

    size: FilmSize
    orientation: Orientation
    dots_per_inch: int

    @property
    def dots_per_mm(self) -> float:
        """Answer the resolution."""
        return self.dots_per_inch / MM_PER_INCH

    def box(self, grid: Grid) -> tuple[int, int]:
        """Answer width and height of an image box in dots."""
        width, height = self.size.millimetres
        if self.orientation is Orientation.LANDSCAPE:
            width, height = height, width
        return (
            max(int((width - 2 * MARGIN_MM) / grid.columns * self.dots_per_mm), 1),
            max(int((height - 2 * MARGIN_MM) / grid.rows * self.dots_per_mm), 1),
        )

    def grid_for(self, pictures: int, most: Grid) -> Grid:
        """Answer the grid with the fewest empty boxes for so many pictures, then the one nearest to square boxes."""

        def cost(grid: Grid) -> tuple[int, float]:
            width, height = self.box(grid)
            return grid.boxes, max(width / height, height / width)

        wanted = min(pictures, most.boxes)
        known = {most}
        for columns, rows in USUAL_GRIDS:
            is_lying = self.orientation is Orientation.LANDSCAPE
            known.add(Grid(rows, columns) if is_lying else Grid(columns, rows))
        fitting = (grid for grid in known if grid.columns <= most.columns and grid.rows <= most.rows)
        return min((grid for grid in fitting if grid.boxes >= wanted), key=cost)


@dataclass(frozen=True, slots=True)
class Printable:
    """One picture to be printed, and where it belongs."""

    item: ParcelItem
    patient: tuple[str, ...]
    order: tuple[str, int, int, int]

    @classmethod
    def of(cls, item: ParcelItem, header: Dataset) -> Printable:
        """Read who the patient is and where the picture comes in its series."""
        patient = (
            str(header.get("PatientID") or "").strip(),
            str(header.get("IssuerOfPatientID") or "").strip(),
            fold_name(str(header.get("PatientName") or "").partition("=")[0]),
        )
        order = (
            item.study_instance_uid,
            _number(header, "SeriesNumber"),
            _number(header, "InstanceNumber"),
            item.id,
        )
        return cls(item, patient, order)


def films(
    printables: Iterable[Printable], sheet: Sheet, most: Grid
) -> Iterator[tuple[Grid, list[Printable]]]:
    """Fill films in order of study, series and image; no film holds two patients."""
    ordered = sorted(printables, key=lambda printable: (printable.patient, printable.order))
    for _, group in groupby(ordered, key=lambda printable: printable.patient):
        left = list(group)
        while left:
            grid = sheet.grid_for(len(left), most)
            yield grid, left[: grid.boxes]
            left = left[grid.boxes :]


def _number(header: Dataset, keyword: str) -> int:
    """Answer a number to sort by; what is none comes last."""
    try:
        return int(str(header.get(keyword)).strip())
    except ValueError:
        return 1 << 31
