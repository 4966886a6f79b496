"""Messages of a RIS, written from its own templates, and what it reads from those it gets.

Nothing here is shared with the broker's HL7 code: a peer that used it would agree with every mistake.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from broker.demo.cases import Case

RIS_APPLICATION = "DEMORIS"
FACILITY = "HOSPITAL"

_TYPES = {
    "ORM": ("ORM^O01", "2.3.1"),
    "OMG": ("OMG^O19^OMG_O19", "2.5.1"),
    "OMI": ("OMI^O23^OMI_O23", "2.5.1"),
}


@dataclass(frozen=True, slots=True)
class Message:
    """A message ready for the wire."""

    control_id: str
    text: str
    codec: str

    @property
    def encoded(self) -> bytes:
        """The bytes of the message, without its frame."""
        return self.text.encode(self.codec)


@dataclass(frozen=True, slots=True)
class StatusMessage:
    """What the RIS reads from a status message."""

    control_id: str
    order_control: str
    order_status: str
    placer_order_number: str
    accession_number: str


def order_message(case: Case, *, control_id: str, now: datetime, start: datetime) -> Message:
    """Write a new order in the dialect of its RIS."""
    return _message(
        case, control_id, now, _TYPES[case.dialect], _order_segments(case, "NW", "SC", now, start)
    )


def cancel_message(case: Case, *, control_id: str, now: datetime, start: datetime) -> Message:
    """Write the cancellation of an order."""
    return _message(
        case, control_id, now, _TYPES[case.dialect], _order_segments(case, "CA", "CA", now, start)
    )


def update_message(case: Case, *, control_id: str, now: datetime) -> Message:
    """Write a change of demographics."""
    return _message(case, control_id, now, ("ADT^A08^ADT_A01", "2.5.1"), [f"EVN|A08|{_time(now)}"])


def _message(
    case: Case, control_id: str, now: datetime, kind: tuple[str, str], segments: list[str]
) -> Message:
    name, codec = case.character_set.split(":")
    header = (
        f"MSH|^~\\&|{RIS_APPLICATION}|{FACILITY}|BROKER|{FACILITY}|{_time(now)}||{kind[0]}|{control_id}|P|{kind[1]}"
        f"||||||{name}"
    )
    person = f"PID|1||{case.patient_id}^^^{FACILITY}^MR||{case.name}^^^^^L||{case.birth_date}|{case.sex}"
    # An event segment stands before the patient, an order after the visit (HL7 v2.5.1 3.3.1, 4.4.1).
    before = [segment for segment in segments if segment.startswith("EVN")]
    after = [segment for segment in segments if not segment.startswith("EVN")]
    lines = [header, *before, person, "PV1|1|O|RAD^^^HOSPITAL|||||4711^Berger^Anna", *after]
    return Message(control_id, "\r".join(lines) + "\r", codec)


def _order_segments(case: Case, control: str, status: str, now: datetime, start: datetime) -> list[str]:
    at = _time(start)
    code = f"{case.procedure_code}^{case.procedure}^99DEMO"
    procedure_id, step_id = f"R{case.placer_order_number}", f"S{case.placer_order_number}"
    timing = f"^^^{at}^^R" if case.dialect == "ORM" else ""
    common = f"ORC|{control}|{case.placer_order_number}^{RIS_APPLICATION}|||{status}||{timing}||{_time(now)}"
    if case.dialect == "ORM":
        request = _fields(
            "OBR", {1: "1", 2: f"{case.placer_order_number}^{RIS_APPLICATION}", 4: code, 16: "4711^Berger^Anna",
                    18: case.accession_number, 19: procedure_id, 20: step_id, 24: case.modality,
                    27: f"^^^{at}^^R", 44: code},
        )  # fmt: skip
        return [
            common,
            request,
            *([f"ZDS|{case.study_instance_uid}^^^DICOM"] if case.study_instance_uid else []),
        ]
    request = _fields(
        "OBR", {1: "1", 2: f"{case.placer_order_number}^{RIS_APPLICATION}", 4: code, 16: "4711^Berger^Anna",
                18: case.accession_number, 19: procedure_id, 20: step_id, 24: case.modality, 44: code},
    )  # fmt: skip
    quantity = f"TQ1|1||||||{at}||R^Routine"
    if case.dialect == "OMG":
        return [
            common,
            quantity,
            request,
            f"ZDS|{case.study_instance_uid}^{RIS_APPLICATION}^Application^DICOM",
        ]
    imaging = _fields(
        "IPC", {1: case.accession_number, 2: procedure_id, 3: case.study_instance_uid or "", 4: step_id,
                5: case.modality, 6: code, 9: case.station or ""},
    )  # fmt: skip
    return [common, quantity, request, imaging]


def _fields(segment: str, values: dict[int, str]) -> str:
    return "|".join([segment, *(values.get(number, "") for number in range(1, max(values) + 1))])


def _time(instant: datetime) -> str:
    return instant.strftime("%Y%m%d%H%M%S")


def read_acknowledgement(data: bytes) -> tuple[str, str]:
    """Answer MSA-1 and MSA-2."""
    for fields in _segments(data):
        if fields[0] == "MSA":
            return _field(fields, 1), _field(fields, 2)
    return "", ""


def read_status(data: bytes) -> StatusMessage:
    """Read the status message of an order."""
    found: dict[str, list[str]] = {}
    for fields in _segments(data):
        found.setdefault(fields[0], fields)
    header, order, request = (found.get(name, [name]) for name in ("MSH", "ORC", "OBR"))
    return StatusMessage(
        control_id=_field(header, 9),
        order_control=_field(order, 1),
        order_status=_field(order, 5),
        placer_order_number=_field(order, 2).split("^")[0],
        accession_number=_field(request, 18).split("^")[0],
    )


def acknowledge(data: bytes, *, now: datetime) -> bytes:
    """Answer AA to a message."""
    header = next(iter(_segments(data)), ["MSH"])
    control_id = _field(header, 9)
    text = (
        f"MSH|^~\\&|{RIS_APPLICATION}|{FACILITY}|{_field(header, 2)}|{_field(header, 3)}|{_time(now)}||ACK|A{control_id[-18:]}"
        f"|P|{_field(header, 11) or '2.3.1'}\rMSA|AA|{control_id}\r"
    )
    return text.encode("latin-1", "replace")


def _segments(data: bytes) -> list[list[str]]:
    return [line.split("|") for line in data.decode("utf-8", "replace").split("\r") if line]


def _field(fields: list[str], number: int) -> str:
    """Answer a field by its position behind the segment name; in MSH the separator itself is field 1."""
    return fields[number] if number < len(fields) else ""
