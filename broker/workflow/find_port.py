"""One box finds everything: what a text names exactly, and what begins with it, group by group.

Every group is one range of one index and is turned page by page with a cursor, so that a hundred thousand
patients of one name cost no more than ten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from broker.workflow.reports_port import MessageLine, OrderLine, StudyLine

FOUND_LIMIT = 20
"""Rows of a group shown at once."""
FOUND_COUNTED = 1000
"""A group is counted up to here; beyond it is "more than"."""


class FoundGroup(Enum):
    """What kind of agreement a group of rows stands for."""

    ORDERS = "orders"  # accession, placer, filler, patient id or step id, exactly
    STUDIES = "studies"  # study, series or SOP instance UID, accession or patient id, exactly
    MESSAGES = "messages"  # control id, exactly
    DEVICES = "devices"  # scheduled station AE title, or of its beginning
    NAMES = "names"  # orders whose patient's name begins so
    PATIENTS = "patients"  # orders whose patient id begins so, and is longer
    ACCESSIONS = "accessions"  # orders whose accession number begins so, and is longer


@dataclass(frozen=True, slots=True)
class Found:
    """One group of what was found."""

    group: FoundGroup
    count: int
    """How many there are, as far as was counted."""
    counted_all: bool
    orders: Sequence[OrderLine] = ()
    studies: Sequence[StudyLine] = ()
    messages: Sequence[MessageLine] = ()
    devices: Sequence[str] = ()
    after: str | None = None
    """Cursor of the next rows; None: these are the last."""


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything found, group by group, without the empty ones."""

    groups: Sequence[Found]
    only: tuple[FoundGroup, str] | None
    """The one object that the text names exactly: its group, and the id of its page."""


class FindReports(Protocol):
    """Finds for people."""

    def find(self, text: str) -> Findings:
        """Answer what a patient id or name, number, UID, control id or AE title finds."""
        ...

    def find_more(self, text: str, group: FoundGroup, *, after: str) -> Found:
        """Answer the next rows of one group. Raises InvalidValue for a cursor that is none."""
        ...
