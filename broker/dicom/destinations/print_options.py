"""Say which printer, and what its films look like: the options of the destination kind `print`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from broker.dicom.destinations.film import FilmSize, Orientation
from broker.dicom.destinations.peer import PeerOptions, TimeoutOptions

ANSWER_S = 60.0
"""Shorter than a lease, so that an answer that comes late still finds its delivery ours."""


def _code_string(value: str) -> str:
    if not value.isascii() or len(value) > 16 or value != value.upper() or "\\" in value:
        raise ValueError("a code string has at most 16 capital letters, digits, blanks and underscores")
    return value


CodeString = Annotated[str, AfterValidator(_code_string)]


class WhichFrame(Enum):
    """Which frame of a multi-frame object is printed."""

    FIRST = "first"
    MIDDLE = "middle"
    LAST = "last"

    def of(self, frames: int) -> int:
        """Answer its index."""
        return {WhichFrame.FIRST: 0, WhichFrame.MIDDLE: frames // 2, WhichFrame.LAST: frames - 1}[self]


class Layout(BaseModel):
    """Says how many pictures a film holds at most."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    columns: int = Field(default=4, ge=1, le=10, description="Image boxes side by side.")
    rows: int = Field(default=5, ge=1, le=10, description="Image boxes one above the other.")


class PrintOptions(PeerOptions):
    """Says which printer, and what the films look like."""

    film_size: FilmSize = Field(default=FilmSize.IN_14X17, description="Film size, in the standard's words.")
    orientation: Orientation = Field(default=Orientation.PORTRAIT, description="How the sheet stands.")
    layout: Layout = Field(
        default=Layout(), description="The densest layout; fewer pictures get larger boxes."
    )
    medium: CodeString | None = Field(
        default=None,
        description="Medium type, such as BLUE FILM, CLEAR FILM or PAPER; absent = the printer's.",
    )
    film_destination: CodeString | None = Field(
        default=None, description="MAGAZINE, PROCESSOR or BIN_1 and so on; absent = the printer's."
    )
    copies: int = Field(default=1, ge=1, le=10, description="Copies of each film.")
    print_priority: Literal["HIGH", "MED", "LOW"] = Field(
        default="MED", description="Priority at the printer."
    )
    label: str | None = Field(default=None, max_length=64, description="Film session label.")
    magnification: Literal["REPLICATE", "BILINEAR", "CUBIC", "NONE"] | None = Field(
        default=None,
        description="How the printer enlarges; absent = the printer's way. Pictures fill their boxes.",
    )
    border: Literal["BLACK", "WHITE"] | None = Field(default="BLACK", description="Density of the border.")
    empty: Literal["BLACK", "WHITE"] | None = Field(default="BLACK", description="Density of empty boxes.")
    dots_per_inch: int = Field(
        default=300, ge=50, le=650, description="Resolution of the printer, in dots per inch."
    )
    bits: Literal[8, 12] = Field(
        default=8, description="Bits per pixel sent to the printer: 8, or 12 if it takes them."
    )
    frame: WhichFrame = Field(
        default=WhichFrame.MIDDLE, description="Which frame of a multi-frame object is printed."
    )
    max_films: int = Field(
        default=10, ge=1, le=100, description="A delivery that would need more is refused."
    )
    font: Path | None = Field(
        default=None,
        description="TrueType file for names in scripts the built-in font lacks, such as Chinese or Japanese; "
        "relative to the data directory or absolute.",
    )
    timeouts: TimeoutOptions = Field(
        default=TimeoutOptions(response_s=ANSWER_S), description="How long to wait for the printer."
    )
