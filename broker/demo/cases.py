"""The patients and exams of the day. All of them are invented."""

from __future__ import annotations

from dataclasses import dataclass

UID_ROOT = "1.2.826.0.1.3680043.8.498."
"""The root pydicom lends for identifiers that only need to be unique."""


@dataclass(frozen=True, slots=True)
class Case:
    """One order as the RIS knows it, and what becomes of it."""

    key: str
    dialect: str
    """ORM, OMG or OMI: how this RIS says it."""
    patient_id: str
    name: str
    """Family^Given, as people write it."""
    birth_date: str
    sex: str
    accession_number: str
    placer_order_number: str
    procedure_code: str
    procedure: str
    modality: str
    body_part: str
    """What the scanner's protocol puts into the images."""
    station: str | None
    """The one station the RIS asks for; None: any of the modality."""
    study_instance_uid: str | None
    """None: this RIS sends no UIDs."""
    character_set: str
    """MSH-18 and the Python codec behind it, as `name/codec`."""


CHEST = Case(
    "chest", "OMI", "DEMO-1001", "Müller^Jürgen", "19580314", "M", "A26-1001", "P1001",
    "CTCH", "CT Chest with contrast", "CT", "CHEST", "CT1", UID_ROOT + "1001", "8859/1:latin-1",
)  # fmt: skip
HEAD = Case(
    "head", "ORM", "DEMO-1002", "Okafor^Ada", "19910722", "F", "A26-1002", "P1002",
    "CTHE", "CT Head", "CT", "HEAD", None, None, "8859/1:latin-1",
)  # fmt: skip
ABDOMEN = Case(
    "abdomen", "ORM", "DEMO-1003", "Lindqvist^Göran", "19470901", "M", "A26-1003", "P1003",
    "CTAB", "CT Abdomen", "CT", "ABDOMEN", None, None, "8859/1:latin-1",
)  # fmt: skip
KNEE = Case(
    "knee", "OMG", "DEMO-1004", "Παπαδοπούλου^Ελένη", "19830205", "F", "A26-1004", "P1004",
    "MRKN", "MR Knee left", "MR", "KNEE", None, UID_ROOT + "1004", "UNICODE UTF-8:utf-8",
)  # fmt: skip
PLATES = Case(
    "plates", "ORM", "DEMO-1005", "Brennan^Maeve", "20011130", "F", "A26-1005", "P1005",
    "CRAB", "Abdomen AP and oblique", "CR", "ABDOMEN", None, None, "8859/1:latin-1",
)  # fmt: skip

ORDERS = (CHEST, HEAD, ABDOMEN, KNEE, PLATES)
EXAMINED = (CHEST, HEAD, KNEE, PLATES)
"""All but the one that is cancelled."""
