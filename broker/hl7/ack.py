"""Acknowledgements: what is answered, in which mode, with which ERR (HL7 v2.5.1 2.9, 2.15.5)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final

from broker.hl7.charsets import Charset
from broker.hl7.tokenizer import Message, Path, Separators

MAX_PROBLEMS: Final = 10
_TEXT_CHARACTERS: Final = 80


class Verdict(Enum):
    """What became of a message; the value is the last letter of the acknowledgement code (table 0008)."""

    ACCEPTED = "A"
    ERROR = "E"
    REJECTED = "R"


class Severity(Enum):
    """HL7 table 0516."""

    ERROR = "E"
    WARNING = "W"
    INFORMATION = "I"


CONDITIONS: Final = {
    "0": "Message accepted",
    "100": "Segment sequence error",
    "101": "Required field missing",
    "102": "Data type error",
    "103": "Table value not found",
    "200": "Unsupported message type",
    "201": "Unsupported event code",
    "202": "Unsupported processing id",
    "203": "Unsupported version id",
    "204": "Unknown key identifier",
    "205": "Duplicate key identifier",
    "206": "Application record locked",
    "207": "Application internal error",
}
"""HL7 table 0357."""

VERDICTS: Final = {
    **dict.fromkeys(("100", "101", "102", "103", "204", "205", "206", "207"), Verdict.ERROR),
    **dict.fromkeys(("200", "201", "202", "203"), Verdict.REJECTED),
}
"""Condition -> verdict. Receivers differ here; content errors are AE: sent again unchanged they fail again."""

CONFLICTS: Final = frozenset({"204", "205", "206"})
"""Conditions of messages that are understood and contradict what is known: a person decides."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Says what is wrong with one place of a message, never repeating what stands there."""

    condition: str
    text: str
    path: Path | None = None
    occurrence: int = 1
    severity: Severity = Severity.ERROR

    @property
    def place(self) -> str:
        """Name the place as a person writes it: `OBR[2]-18`."""
        if self.path is None:
            return ""
        segment = self.path.segment if self.occurrence == 1 else f"{self.path.segment}[{self.occurrence}]"
        rest = str(self.path).partition("-")[2]
        return f"{segment}-{rest}" if self.path.field else segment

    def __str__(self) -> str:
        return (
            f"{self.condition} {self.place}: {self.text}" if self.path else f"{self.condition}: {self.text}"
        )


@dataclass(frozen=True, slots=True)
class Header:
    """Holds the fields of MSH an answer echoes, as they were sent."""

    separators: Separators
    sending_application: str
    sending_facility: str
    receiving_application: str
    receiving_facility: str
    message_type: str
    trigger_event: str
    message_control_id: str
    processing_id: str
    version: str
    charset: str
    accept_acknowledgement: str
    application_acknowledgement: str

    @classmethod
    def of(cls, message: Message) -> Header:
        """Read the header of a message."""
        msh = message.header
        return cls(
            separators=message.separators,
            sending_application=msh.field(3),
            sending_facility=msh.field(4),
            receiving_application=msh.field(5),
            receiving_facility=msh.field(6),
            message_type=msh.value(9, 1),
            trigger_event=msh.value(9, 2),
            message_control_id=msh.field(10),
            processing_id=msh.field(11),
            version=msh.field(12),
            charset=msh.field(18),
            accept_acknowledgement=msh.value(15),
            application_acknowledgement=msh.value(16),
        )

    @property
    def enhanced(self) -> bool:
        """Tell whether the sender asks for enhanced mode: any value in MSH-15 or MSH-16."""
        return bool(self.accept_acknowledgement or self.application_acknowledgement)

    @property
    def version_number(self) -> tuple[int, ...]:
        """Give MSH-12.1 as numbers; a version nobody can read counts as 2.5.1."""
        text = self.version.split(self.separators.component or "^", 1)[0]
        try:
            return tuple(int(part) for part in text.split("."))
        except ValueError:
            return (2, 5, 1)


def verdict_of(problems: Iterable[Problem]) -> Verdict:
    """Derive the verdict from the errors among the problems: rejected beats error beats accepted."""
    found = {
        VERDICTS.get(problem.condition, Verdict.ERROR)
        for problem in problems
        if problem.severity is Severity.ERROR
    }
    if Verdict.REJECTED in found:
        return Verdict.REJECTED
    return Verdict.ERROR if found else Verdict.ACCEPTED


def _wanted(when: str, *, good: bool) -> bool:
    """Apply HL7 table 0155."""
    return when == "AL" or (when == "SU" and good) or (when == "ER" and not good)


def acknowledgements(header: Header, verdict: Verdict) -> tuple[str, ...]:
    """List the acknowledgement codes to send for a message whose effect is durable, in order.

    Original mode is one application acknowledgement. In enhanced mode storing and processing are one step
    here, so the accept acknowledgement is not sent ahead; where no application acknowledgement is wanted
    the accept one carries the refusal, or the sender would never learn of it.
    """
    if not header.enhanced:
        return (f"A{verdict.value}",)
    good = verdict is Verdict.ACCEPTED
    application = _wanted(header.application_acknowledgement, good=good)
    accept_verdict = Verdict.ACCEPTED if application else verdict
    codes: list[str] = []
    if _wanted(header.accept_acknowledgement, good=accept_verdict is Verdict.ACCEPTED):
        codes.append(f"C{accept_verdict.value}")
    if application:
        codes.append(f"A{verdict.value}")
    return tuple(codes)


def build_ack(
    header: Header,
    code: str,
    *,
    control_id: str,
    now: datetime,
    charset: Charset,
    problems: Sequence[Problem] = (),
    text: str = "",
) -> bytes:
    """Write one acknowledgement; `now` is in the site's time zone."""
    separators = header.separators
    version = header.version_number
    refused = not code.endswith("A")
    errors = list(problems[:MAX_PROBLEMS]) if refused else []
    if refused and not errors:
        errors = [Problem("207", text or CONDITIONS["207"])]
    msh = [
        "MSH",
        separators.component + separators.repetition + separators.escape + separators.subcomponent,
        header.receiving_application,
        header.receiving_facility,
        header.sending_application,
        header.sending_facility,
        now.strftime("%Y%m%d%H%M%S%z"),
        "",
        _message_type(header, version),
        control_id,
        header.processing_id or "P",
        header.version or "2.5.1",
    ]
    if header.enhanced and code.startswith("A"):
        msh += ["", "", "NE", "NE", "", header.charset]
    elif header.charset:
        msh += ["", "", "", "", "", header.charset]
    summary = text or ("; ".join(str(problem) for problem in errors) if refused else "")
    msa = ["MSA", code, header.message_control_id, escape(summary[:_TEXT_CHARACTERS], separators)]
    segments = [msh, msa]
    if version < (2, 5):
        if errors:
            # Before v2.5 there is one ERR, and its ERR-1 repeats.
            segments.append(["ERR", (separators.repetition or " ").join(_eld(p, separators) for p in errors)])
    else:
        segments += [_err(problem, separators) for problem in errors]
    body = "".join(separators.field.join(segment).rstrip(separators.field) + "\r" for segment in segments)
    return body.encode(charset.codec, errors="replace")


def _message_type(header: Header, version: tuple[int, ...]) -> str:
    """Write MSH-9: the structure component exists since v2.4, the event since v2.3."""
    parts = ["ACK"]
    if header.trigger_event and version >= (2, 3):
        parts.append(escape(header.trigger_event[:8], header.separators))
        if version >= (2, 4):
            parts.append("ACK")
    return (header.separators.component or "^").join(parts)


def _location(problem: Problem) -> list[str]:
    if problem.path is None:
        return []
    path = problem.path
    parts = [path.segment, str(problem.occurrence)]
    if path.field:
        parts += [str(path.field), str(path.repetition)]
        if path.component:
            parts.append(str(path.component))
            if path.subcomponent:
                parts.append(str(path.subcomponent))
    return parts


def _eld(problem: Problem, separators: Separators) -> str:
    """Write ERR-1 (ELD) as before v2.5: segment, sequence, field, code."""
    location = _location(problem)
    where = [location[0], location[1], location[2] if len(location) > 2 else ""] if location else ["", "", ""]
    condition = (separators.subcomponent or " ").join(
        (problem.condition, escape(CONDITIONS.get(problem.condition, ""), separators), "HL70357")
    )
    return (separators.component or "^").join([*where, condition])


def _err(problem: Problem, separators: Separators) -> list[str]:
    """Write an ERR segment of v2.5 and later."""
    component = separators.component or "^"
    return [
        "ERR",
        "",
        component.join(_location(problem)),
        component.join(
            (problem.condition, escape(CONDITIONS.get(problem.condition, ""), separators), "HL70357")
        ),
        problem.severity.value,
        "",
        "",
        "",
        escape(problem.text[:250], separators),
    ]


def escape(text: str, separators: Separators) -> str:
    """Write plain text so that no character of it separates anything (HL7 v2.5.1 2.7)."""
    mark = separators.escape
    table = {
        separators.field: "F",
        separators.component: "S",
        separators.subcomponent: "T",
        separators.repetition: "R",
        mark: "E",
    }
    out: list[str] = []
    for character in text:
        if character in table and character:
            out.append(f"{mark}{table[character]}{mark}" if mark else " ")
        else:
            out.append(max(character, " "))
    return "".join(out)
