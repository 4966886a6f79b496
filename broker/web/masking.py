"""What is left of patient data where the reader of a page hides names: on a screen that others see.

Identifiers stay, for without them nothing can be found or told; names, dates of birth, addresses, telephone numbers and
texts in which somebody may have written a name do not. What is not known to be harmless is masked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from broker.web.timeline import Told
from broker.workflow.message_reports import SegmentPart

MASK = "•••"

_ALL = frozenset(range(1, 1000))
_SHOWN_FIELDS = {
    "MSH": _ALL,
    "EVN": _ALL,
    "MSA": frozenset({1, 2}),
    "ERR": frozenset({1, 2, 3, 4, 5}),
    "PID": frozenset({1, 2, 3, 4, 8, 18}),
    "MRG": frozenset({1, 2, 3, 4}),
    "PV1": frozenset({1, 2, 3, 4, 6, 10, 14, 15, 18, 19, 36, 44, 45}),
    "ORC": _ALL,
    "OBR": _ALL - {13, 31, 39},
    "TQ1": _ALL - {10, 11},
    "IPC": _ALL,
    "ZDS": _ALL,
    "NTE": frozenset({1, 2, 4}),
    "OBX": frozenset({1, 2, 3, 4, 6, 7, 8, 11, 14}),
    "AL1": frozenset({1, 2}),
    "DG1": frozenset({1, 2, 3, 5, 6}),
}
"""Fields of HL7 segments that name no patient; of every other segment only its set id is shown."""
_SET_ID = re.compile(r"\d{1,4}")

_SHOWN_KEYWORDS = frozenset(
    {
        "PatientID",
        "IssuerOfPatientID",
        "PatientSex",
        "PatientAge",
        "PatientSize",
        "PatientWeight",
        "PatientSpeciesDescription",
    }
)
_OF_THE_PATIENT = re.compile(
    r"Patient|Responsible|Birth|Mother|Telephone|Address|Residence|Contact|Religi|Ethnic|Occupation|Military|Insurance"
)
_FREE_TEXT = re.compile(
    r"Comment|History|Reason|SpecialNeeds|Allerg|MedicalAlert|ClinicalProblem|DiagnosesDescription"
)
_TOLD_BY_PEERS = frozenset({"text", "problems", "comment", "name", "patient_name", "why"})
"""Details of an event in which a peer, or a person, may have written a name."""


def hides(keyword: str) -> bool:
    """Tell whether the value of an attribute is masked."""
    if keyword in _SHOWN_KEYWORDS:
        return False
    return bool(_OF_THE_PATIENT.search(keyword) or _FREE_TEXT.search(keyword))


def hides_clause(clause: str) -> bool:
    """Tell whether what a clause of a rule found is masked: the clause names the attributes it asks."""
    return any(hides(word) for word in re.findall(r"[A-Za-z]+", clause))


def masked_reason(reason: str | None) -> str:
    """Leave of a reason what we say ourselves: what a peer answered stands behind the colon."""
    ours, colon, _ = (reason or "").partition(":")
    return f"{ours}{colon} {MASK}" if colon else ours


def masked_whereabouts(said: str) -> str:
    """Leave of a sentence what stands before what was found in the images, and before the words of a peer."""
    asked, found, _ = said.partition(", found ")
    return f"{asked}{found}{MASK}" if found and hides_clause(asked) else masked_reason(said)


def masked_detail(name: str, value: object) -> object:
    """Mask a detail of an event in which somebody may have written a name."""
    if name == "reason":
        return masked_reason(str(value))
    return MASK if name in _TOLD_BY_PEERS and value else value


def masked_line(line: Told) -> Told:
    """Mask one line of a timeline; the entry as it is kept, and pictures, which may show a name, are left out."""
    facts = tuple((name, str(masked_detail(name, value))) for name, value in line.facts)
    return replace(line, facts=facts, raw="", previews=())


def masked_er7(text: str) -> str:
    """Mask a message as it is on the wire, one segment a line; its separators stay, so that its form is seen."""
    lines = text.split("\n")
    header = next((line for line in lines if line.startswith("MSH") and len(line) > 3), "")
    if not header:
        return MASK if text else ""
    field, inner = header[3], header[4:].split(header[3], 1)[0][:5]
    return "\n".join(_masked_line(line, field, inner) for line in lines)


def _masked_line(line: str, field: str, inner: str) -> str:
    name, *fields = line.split(field)
    if name not in _SHOWN_FIELDS and not re.fullmatch(r"[A-Z][A-Z0-9]{2}", name):
        return MASK if line else ""
    # MSH-1 is the separator itself: what stands first between separators is MSH-2.
    first = 2 if name == "MSH" else 1
    shown = [
        value if _is_shown(name, number, value) else _masked(value, inner)
        for number, value in enumerate(fields, first)
    ]
    return field.join([name, *shown])


def _is_shown(segment: str, number: int, value: str) -> bool:
    if segment in _SHOWN_FIELDS:
        return number in _SHOWN_FIELDS[segment]
    return number == 1 and bool(_SET_ID.fullmatch(value))


def _masked(value: str, inner: str) -> str:
    if value in ("", '""'):
        return value
    separators = re.escape(inner) if inner else ""
    return re.sub(rf"[^{separators}]+", MASK, value) if separators else MASK


def masked_parts(parts: Sequence[SegmentPart], raw: str) -> list[SegmentPart]:
    """Mask the fields of a message that was taken apart."""
    header = next((line for line in raw.split("\n") if line.startswith("MSH")), "")
    inner = header[4:].split(header[3], 1)[0][:5] if len(header) > 3 else ""
    found = []
    for part in parts:
        segment = part.place.partition("[")[0]
        fields = []
        for field in part.fields:
            number = int(field.place.rpartition("-")[2])
            if _is_shown(segment, number, field.text):
                fields.append(field)
            else:
                text = _masked(field.text, inner)
                fields.append(replace(field, text=text, characters=len(text)))
        found.append(replace(part, fields=tuple(fields)))
    return found
