"""Writes what became of a step as an HL7 status message: ORM^O01 or OMG^O19 with ORC-1 SC (IHE RAD-3 in shape).

hl7apy knows the fields of each version; escapes are ours, because it leaves `^` and `&` of a value as they are.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Final, Literal

from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.core import Segment

from broker.domain.character_sets import transliterate
from broker.domain.orders import AttributeValue, Code, EntityIdentifier, Patient, WorklistEntry
from broker.domain.steps import OFFERED_BY_DEFAULT, PerformedStatus
from broker.domain.values import PersonName
from broker.errors import BrokerError
from broker.hl7.ack import escape
from broker.hl7.charsets import UTF_8, Charset
from broker.hl7.tokenizer import Separators
from broker.workflow.clock import Clock
from broker.workflow.performed_port import PerformedStep

MessageKind = Literal["ORM^O01", "OMG^O19"]

_VERSIONS: Final[Mapping[str, str]] = {"ORM^O01": "2.3.1", "OMG^O19": "2.5.1"}
_STRUCTURES: Final[Mapping[str, str]] = {"ORM^O01": "ORM^O01", "OMG^O19": "OMG^O19^OMG_O19"}
_ORDER_STATUS: Final = {
    PerformedStatus.IN_PROGRESS: "IP",
    PerformedStatus.COMPLETED: "CM",
    PerformedStatus.DISCONTINUED: "DC",
}
"""HL7 table 0038."""
_SEPARATORS: Final = Separators()
_NAME_SCRIPTS: Final = ("A", "I", "P")


class OrderStatusMessages:
    """Implements the StatusMessages port."""

    def __init__(
        self,
        clock: Clock,
        *,
        message: MessageKind = "ORM^O01",
        sending_application: str = "BROKER",
        sending_facility: str = "",
        charset: Charset = UTF_8,
        processing_id: str = "P",
        control_ids: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        self._clock = clock
        self._kind: MessageKind = message
        self._version = _VERSIONS[message]
        self._sending_application = sending_application
        self._sending_facility = sending_facility
        self._charset = charset
        self._processing_id = processing_id
        self._control_ids = control_ids

    def status_message(
        self, entry: WorklistEntry, performed: PerformedStep, status: PerformedStatus
    ) -> bytes:
        """Write the message that tells the RIS of one step; it is addressed to who placed the order."""
        segments = [
            self._header(entry),
            self._patient(entry.patient),
            self._segment("PV1", {1: "1", 2: "U"}),
            self._order(entry, status),
        ]
        service = self._service(entry, performed, status)
        if self._kind == "OMG^O19":
            segments.append(self._segment("TQ1", {1: "1", 7: performed.started_at or ""}))
        segments.append(service)
        return ("\r".join(segments) + "\r").encode(self._charset.codec, errors="replace")

    def _header(self, entry: WorklistEntry) -> str:
        fields = {
            3: self._text(self._sending_application),
            4: self._text(self._sending_facility),
            5: self._text(entry.order.sending_application),
            6: self._text(entry.order.sending_facility),
            7: self._clock.local_now().strftime("%Y%m%d%H%M%S%z"),
            9: _STRUCTURES[self._kind],
            10: self._control_ids(),
            11: self._processing_id,
            12: self._version,
            18: self._charset.term,
        }
        # hl7apy writes MSH with separators of its own making: the header is put together here.
        return "MSH|^~\\&" + "".join(f"|{fields.get(number, '')}" for number in range(3, 19))

    def _patient(self, patient: Patient) -> str:
        identifiers = [self._components(patient.patient_id, "", "", patient.issuer or "")]
        return self._segment(
            "PID",
            {
                1: "1",
                3: "~".join(identifiers),
                5: self._xpn(patient.name),
                7: patient.birth_date or "",
                8: self._text(patient.sex or ""),
            },
        )

    def _order(self, entry: WorklistEntry, status: PerformedStatus) -> str:
        code = _ORDER_STATUS[status]
        if status is PerformedStatus.DISCONTINUED and entry.step.status in OFFERED_BY_DEFAULT:
            # A wrong tap: the step is back on the worklist, and the order must not end for it.
            code = "SC"
        return self._segment(
            "ORC",
            {
                1: "SC",
                2: self._number(entry.order.placer_order_number),
                3: self._number(entry.order.filler_order_number),
                5: code,
                9: self._clock.local_now().strftime("%Y%m%d%H%M%S"),
            },
        )

    def _service(self, entry: WorklistEntry, performed: PerformedStep, status: PerformedStatus) -> str:
        procedure = entry.procedure
        code = self._code(
            procedure.attributes.get("RequestedProcedureCodeSequence"),
            procedure.attributes.get("RequestedProcedureDescription"),
        )
        return self._segment(
            "OBR",
            {
                1: "1",
                2: self._number(entry.order.placer_order_number),
                3: self._number(entry.order.filler_order_number),
                4: code,
                7: performed.started_at or "",
                8: performed.ended_at or "" if status is not PerformedStatus.IN_PROGRESS else "",
                18: self._text(entry.order.accession_number or ""),
                19: self._text(procedure.requested_procedure_id),
                20: self._text(entry.step.scheduled_procedure_step_id),
                24: self._text(performed.modality or entry.step.modality or ""),
                44: code,
            },
        )

    # --- fields ---

    def _segment(self, name: str, fields: Mapping[int, str]) -> str:
        segment = Segment(name, version=self._version, validation_level=VALIDATION_LEVEL.TOLERANT)
        for number, value in fields.items():
            # One by one: given in one piece, hl7apy takes repetitions for one field and loses components.
            for repetition in value.split("~") if value else ():
                segment.add_field(f"{name}_{number}").value = repetition
        return str(segment.to_er7())

    def _text(self, text: str) -> str:
        """Escape a value, in characters the receiver has."""
        return escape(transliterate(text, self._charset.codec), _SEPARATORS)

    def _components(self, *parts: str) -> str:
        return "^".join(self._text(part) for part in parts).rstrip("^")

    def _number(self, number: EntityIdentifier | None) -> str:
        if number is None:
            return ""
        return self._components(
            number.value, number.namespace or "", number.universal_id or "", number.universal_id_type or ""
        )

    def _code(self, sequence: AttributeValue | None, description: AttributeValue | None) -> str:
        for item in sequence if isinstance(sequence, tuple) else ():
            if isinstance(item, Code):
                return self._components(item.value, item.meaning, item.scheme)
        return self._components("", description) if isinstance(description, str) else ""

    def _xpn(self, name: str) -> str:
        """Write PN as XPN: suffix before prefix, one repetition per script (HL7 v2.5.1 2.A.89)."""
        try:
            groups = PersonName.parse(name).groups
        except BrokerError:
            return ""
        written = []
        for script, group in zip(_NAME_SCRIPTS, groups, strict=False):
            if group:
                family, given, middle, prefix, suffix = [*group.split("^"), "", "", "", ""][:5]
                code = script if len(groups) > 1 else ""
                written.append(self._components(family, given, middle, suffix, prefix, "", "", code))
        return "~".join(written)
