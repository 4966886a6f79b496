"""Reads requests out of messages as the mapping files say, and collects every problem on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from fnmatch import fnmatchcase
from pathlib import Path as FilePath

from broker.domain.orders import (
    AttributeValue,
    EntityIdentifier,
    MergePatients,
    MessageSource,
    OrderAction,
    OrderDetails,
    PatientDetails,
    PatientIdentifier,
    PlaceOrders,
    ProcedureDetails,
    StepDetails,
    UpdatePatient,
)
from broker.errors import InvalidValue
from broker.hl7.ack import Header, Problem, Severity
from broker.hl7.converters import Conversion, entity_identifier, patient_identifiers
from broker.hl7.groups import Group, Grouped, OrderGroup, group_orders, group_patients
from broker.hl7.instants import parse_stamp, zone_of
from broker.hl7.mapping_checks import check_mapping
from broker.hl7.mapping_file import MappingFile, StationRule, load_mapping_files
from broker.hl7.rules import CompiledRules, Read, Section
from broker.hl7.tokenizer import Message, Path, Segment

Request = PlaceOrders | UpdatePatient | MergePatients

_TYPED = {
    "order": ("PlacerOrderNumber", "FillerOrderNumber", "AccessionNumber", "IssuerOfAccessionNumber"),
    "procedure": ("StudyInstanceUID", "RequestedProcedureID"),
    "step": ("ScheduledProcedureStepID",),
}
_MAX_PATIENT_ID_CHARACTERS = 64
_MAX_STEPS = 100
_CREATING = frozenset({OrderAction.PLACE, OrderAction.CHANGE})


@dataclass(frozen=True, slots=True)
class Mapped:
    """Holds what a message asks for, in order, and everything that is wrong or odd about it."""

    requests: tuple[Request, ...] = ()
    problems: tuple[Problem, ...] = ()
    ignored: str = ""
    """Why nothing is to be done, when that is so."""
    is_response: bool = False
    """The message answers one of ours: it gets no answer itself."""

    @property
    def refused(self) -> bool:
        """Tell whether anything is wrong enough to do nothing at all."""
        return any(problem.severity is Severity.ERROR for problem in self.problems)


class MessageMapping:
    """Reads the messages of one sender."""

    def __init__(self, mapping: MappingFile, *, site_zone: tzinfo) -> None:
        self.file = mapping
        self._site_zone = site_zone
        self._codes = {
            "modalities": {key.upper(): value for key, value in mapping.modalities.items()},
            "sexes": {key.upper(): value for key, value in mapping.sexes.items()},
            "priorities": {key.upper(): value for key, value in mapping.priorities.items()},
        }
        self._rules = CompiledRules(mapping)
        self._laterality = tuple(Path.parse(text) for text in mapping.laterality)
        self._actions = {
            control: {status: tuple(OrderAction(name) for name in actions) for status, actions in row.items()}
            for control, row in mapping.order_actions.items()
        }

    def read(self, message: Message, header: Header, *, message_row: int | None = None) -> Mapped:
        """Read what a message asks for."""
        problems = self._check_header(header)
        if problems:
            return Mapped(problems=tuple(problems))
        events = self.file.events.get(header.message_type)
        if events is None:
            return Mapped(problems=(Problem("200", "the message type is not taken", Path("MSH", 9, 1, 1)),))
        trigger = header.trigger_event
        if not trigger and len(events) == 1:
            trigger = next(iter(events))  # before v2.3 MSH-9 had no event
        what = events.get(trigger) or events.get("*")
        if what is None:
            return Mapped(problems=(Problem("201", "the event is not taken", Path("MSH", 9, 1, 2)),))
        if what in ("ignore", "response"):
            return Mapped(ignored=f"{header.message_type}^{trigger}", is_response=what == "response")
        sent = message.header.value(7, 1)
        zone = zone_of(sent)
        conversion = Conversion(self._site_zone, zone, self._codes, self._rules.remembered(message, zone))
        reading = _Reading(self, message, header, conversion, message_row)
        if what == "order":
            return reading.orders()
        if what == "merge":
            return reading.merges()
        return reading.patient_update(trigger)

    def _check_header(self, header: Header) -> list[Problem]:
        reception = self.file.reception
        problems: list[Problem] = []
        if not header.message_type:
            problems.append(Problem("101", "the message type is missing", Path("MSH", 9, 1, 1)))
        if not header.message_control_id and reception.require_control_id:
            problems.append(Problem("101", "the message control id is missing", Path("MSH", 10)))
        processing_id = header.processing_id.partition(header.separators.component or "^")[0]
        if processing_id and processing_id not in reception.processing_ids:
            problems.append(Problem("202", "messages of this processing id are not taken", Path("MSH", 11)))
        if header.version and not reception.lenient_version and not _is_known_version(header):
            problems.append(Problem("203", "the version is not one of 2.1 to 2.8", Path("MSH", 12)))
        return problems

    @property
    def rules(self) -> CompiledRules:
        """Give the compiled rules."""
        return self._rules

    @property
    def laterality(self) -> tuple[Path, ...]:
        """Give the places that say which side."""
        return self._laterality

    def actions(self, control: str, status: str) -> tuple[OrderAction, ...] | None:
        """Look up what ORC-1 with ORC-5 asks for (HL7 tables 0119 and 0038)."""
        row = self._actions.get(control)
        if row is None:
            return None
        return row.get(status) or row.get("*")


_KNOWN_VERSIONS = tuple(f"2.{minor}" for minor in range(1, 9))


def _is_known_version(header: Header) -> bool:
    text = header.version.partition(header.separators.component or "^")[0]
    return text in _KNOWN_VERSIONS or text[:4] in {f"{version}." for version in _KNOWN_VERSIONS}


class MappingSet:
    """Chooses the mapping of a sender."""

    def __init__(self, common: MappingFile, of_senders: Sequence[MappingFile], *, site_zone: tzinfo) -> None:
        self._common = MessageMapping(common, site_zone=site_zone)
        self._of_senders = [MessageMapping(mapping, site_zone=site_zone) for mapping in of_senders]

    @classmethod
    def load(cls, directory: FilePath | None, *, site_zone: tzinfo) -> MappingSet:
        """Read and check the shipped mapping and the site's files. Raises MappingFileError."""
        common, of_senders = load_mapping_files(directory, check_mapping)
        return cls(common, of_senders, site_zone=site_zone)

    def for_sender(self, application: str, facility: str) -> MessageMapping:
        """Give the first mapping whose senders fit, else the common one."""
        for mapping in self._of_senders:
            for sender in mapping.file.senders:
                if fnmatchcase(application, sender.application) and fnmatchcase(facility, sender.facility):
                    return mapping
        return self._common


class _Reading:
    """Reads one message; gathers problems so that the sender learns of all of them at once."""

    def __init__(
        self,
        mapping: MessageMapping,
        message: Message,
        header: Header,
        conversion: Conversion,
        message_row: int | None,
    ) -> None:
        self._mapping = mapping
        self._message = message
        self._header = header
        self._conversion = conversion
        self._problems: list[Problem] = []
        self._source = MessageSource(
            message.header.value(3, 1),
            message.header.value(4, 1),
            header.message_control_id,
            message_row,
            self._instant(message.header, Path("MSH", 7, 1, 1)),
        )

    # --- patients ---

    def patient_update(self, event: str) -> Mapped:
        groups = group_patients(self._message)
        if not groups:
            self._problem("100", "there is no PID segment", Path("PID", 0))
            return self._mapped()
        patient = self._patient(groups[0], drop_bad_values=True)
        return self._mapped(UpdatePatient(self._source, patient, event))

    def merges(self) -> Mapped:
        requests: list[Request] = []
        groups = group_patients(self._message)
        if not groups:
            self._problem("100", "there is no PID segment", Path("PID", 0))
        for group in groups:
            mrg = group.first("MRG")
            if mrg is None:
                self._problem("100", "there is no MRG segment", Path("MRG", 0))
                continue
            survivor = self._patient(group, drop_bad_values=True)
            absorbed = self._primary_first(
                patient_identifiers(mrg, 1, default_issuer=self._mapping.file.identifiers.default_issuer)
            )
            if not absorbed:
                self._problem(
                    "101", "the identifier to merge is missing", Path("MRG", 1, 1, 1), mrg.occurrence
                )
                continue
            primary = survivor.identifiers[0] if survivor.identifiers else None
            if primary is not None and (primary.value, primary.issuer) == (
                absorbed[0].value,
                absorbed[0].issuer,
            ):
                self._problem(
                    "205", "a patient cannot be merged into itself", Path("MRG", 1, 1, 1), mrg.occurrence
                )
                continue
            requests.append(MergePatients(self._source, survivor, absorbed[0]))
        return self._mapped(*requests)

    def _patient(self, group: Group, *, drop_bad_values: bool) -> PatientDetails:
        rules = self._mapping.file.identifiers
        found: list[PatientIdentifier] = []
        pid = group.first("PID")
        places = [Path.parse(text) for text in rules.from_]
        for tried in (places, [Path.parse(text) for text in rules.otherwise]):
            for place in tried if not found else ():
                segment = group.first(place.segment)
                if segment is not None:
                    found += patient_identifiers(segment, place.field, default_issuer=rules.default_issuer)
        identifiers = self._primary_first(found)
        if not identifiers:
            self._problem("101", "a patient identifier is needed", Path("PID", 3, 1, 1))
        elif len(identifiers[0].value) > _MAX_PATIENT_ID_CHARACTERS:
            self._problem("102", "is longer than the 64 characters of PatientID", Path("PID", 3, 1, 1))
        read = self._read("patient", group, drop_bad_values=drop_bad_values)
        if pid is not None:
            read.sources["PatientID"] = str(places[0])
        return PatientDetails(tuple(identifiers), read.changes, read.sources)

    def _primary_first(self, identifiers: list[PatientIdentifier]) -> list[PatientIdentifier]:
        """Order identifiers so that the one that names the patient comes first; each once."""
        rules = self._mapping.file.identifiers

        def rank(identifier: PatientIdentifier) -> tuple[int, int]:
            authorities, types = rules.authorities, rules.types
            issuer, kind = identifier.issuer, identifier.type_code
            return (
                authorities.index(issuer) if issuer in authorities else len(authorities),
                types.index(kind) if kind in types else len(types),
            )

        return list(dict.fromkeys(sorted(identifiers, key=rank)))

    # --- orders ---

    def orders(self) -> Mapped:
        grouped = group_orders(self._message)
        if self._message.first("PID") is None:
            self._problem("100", "there is no PID segment", Path("PID", 0))
        if not grouped.orders:
            self._problem("100", "there is no ORC segment", Path("ORC", 0))
        size = sum(max(1, len(group.segments.get("IPC", ()))) for group in grouped.orders)
        if size > _MAX_STEPS:
            # Each reads what is around it again: without a bound the cost would grow with the square.
            self._problem(
                "207", f"a message is read up to {_MAX_STEPS} order groups and steps", Path("ORC", 0)
            )
        if self._problems:
            return self._mapped()
        if grouped.prior_results:
            self._problem(
                "100",
                "what follows the second PID is taken as earlier results",
                Path("PID", 0),
                2,
                Severity.WARNING,
            )
        patient = self._patient(grouped.patient, drop_bad_values=False)
        parts = [part for group in grouped.orders if (part := self._order(group, grouped)) is not None]
        details = tuple(
            detail for part in _joined(parts) for detail in part.details(self._lists_all_steps(part))
        )
        if not details and not self._problems:
            return Mapped(ignored="the order control concerns no worklist")
        return self._mapped(PlaceOrders(self._source, patient, details))

    def _lists_all_steps(self, part: _Order) -> bool:
        complete = self._header.message_type in self._mapping.file.reception.complete_steps
        return complete or len(part.steps) > 1

    def _order(self, group: OrderGroup, grouped: Grouped) -> _Order | None:
        orc = group.orc
        if orc is None:
            self._problem("100", "there is no ORC before this OBR", Path("ORC", 0))
            return None
        control, status = orc.value(1).upper(), orc.value(5).upper()
        actions = self._mapping.actions(control, status)
        if actions is None:
            self._problem(
                "103",
                "this order control with this order status is not taken",
                Path("ORC", 1),
                orc.occurrence,
            )
            return None
        if actions == (OrderAction.IGNORE,):
            return None
        if group.obr is None and not group.segments.get("IPC") and _CREATING.intersection(actions):
            self._problem("100", "there is no OBR after this ORC", Path("OBR", 0), orc.occurrence)
            return None
        visit = grouped.visit
        order = self._read("order", group.order_view(visit))
        procedure_view = group.procedure_view(visit)
        procedure = self._read("procedure", procedure_view)
        views = group.step_views(visit)
        uids = (
            {self._text(view, "procedure", "StudyInstanceUID") for view in views} if len(views) > 1 else set()
        )
        steps = [self._step(view, procedure) for view in views]
        side = self._side(procedure_view)
        if side:
            _write_side(side, procedure, "RequestedProcedureDescription")
            for step in steps:
                _write_side(side, step.read, "ScheduledProcedureStepDescription")
        result = _Order(
            actions,
            control,
            status or None,
            order,
            self._number(group, "PlacerOrderNumber"),
            self._number(group, "FillerOrderNumber"),
            self._instant(orc, Path("ORC", 9)),
            [],
        )
        if len(uids) > 1:
            # IHE RAD TF-2 4.4: IPC of one procedure share its UID; where they differ they are procedures.
            result.steps = [
                (self._read("procedure", view), step) for view, step in zip(views, steps, strict=True)
            ]
        else:
            result.steps = [(procedure, step) for step in steps]
        return result

    def _step(self, view: Group, procedure: Read) -> _Step:
        read = self._read("step", view)
        unspecified = "ScheduledProcedureStepStartDate" in read.changes and not read.changes.get(
            "ScheduledProcedureStepStartTime"
        )
        if unspecified and read.changes["ScheduledProcedureStepStartDate"]:
            read.changes["ScheduledProcedureStepStartTime"] = "000000"
        if not read.changes.get("ScheduledStationAETitle"):
            self._assign_station(view, read, procedure)
        return _Step(read, time_unspecified=unspecified)

    def _assign_station(self, view: Group, read: Read, procedure: Read) -> None:
        for rule in self._mapping.file.stations:
            if self._fits(rule, view, read, procedure):
                for keyword, value in (
                    ("ScheduledStationAETitle", rule.ae_titles),
                    ("ScheduledStationName", rule.names),
                    ("ScheduledProcedureStepLocation", rule.location),
                ):
                    if value and not read.changes.get(keyword):
                        read.changes[keyword] = value
                        read.sources[keyword] = "station mapping"
                return

    def _fits(self, rule: StationRule, view: Group, read: Read, procedure: Read) -> bool:
        for key, patterns in rule.when.items():
            if key == "modality":
                value = _plain_text(read.changes.get("Modality"))
            elif key == "procedure_code":
                value = _plain_text(procedure.changes.get("RequestedProcedureCodeSequence"))
            elif key == "sending_application":
                value = self._source.sending_application
            elif key == "sending_facility":
                value = self._source.sending_facility
            else:
                path = Path.parse(key)
                segment = view.first(path.segment)
                value = segment.at(path) if segment is not None else ""
            if not any(fnmatchcase(value.upper(), pattern.upper()) for pattern in patterns):
                return False
        return True

    def _side(self, view: Group) -> str:
        for path in self._mapping.laterality:
            segment = view.first(path.segment)
            if segment is not None and (code := segment.at(path)):
                return self._mapping.file.lateralities.get(code.strip().upper(), "")
        return ""

    def _number(self, group: OrderGroup, name: str) -> EntityIdentifier | None:
        for path in self._mapping.rules.places("order", name):
            for segment in group.segments.get(path.segment, [])[:1] if path.segment != "ORC" else [group.orc]:
                if segment is not None and (number := entity_identifier(segment, path)) is not None:
                    return number
        return None

    # --- reading ---

    def _read(self, section: Section, group: Group, *, drop_bad_values: bool = False) -> Read:
        severity = Severity.WARNING if drop_bad_values else Severity.ERROR
        return self._mapping.rules.read(section, group, self._conversion, self._problems, severity)

    def _text(self, group: Group, section: Section, keyword: str) -> str:
        return _plain_text(self._mapping.rules.read_one(section, keyword, group, self._conversion))

    def _instant(self, segment: Segment, path: Path) -> datetime | None:
        text = segment.at(path).partition("^")[0]
        try:
            stamp = parse_stamp(text, site=self._conversion.site_zone, sender=self._conversion.sender_zone)
        except InvalidValue:
            return None
        return stamp.instant if stamp.has_time else None

    def _problem(
        self,
        condition: str,
        text: str,
        path: Path,
        occurrence: int = 1,
        severity: Severity = Severity.ERROR,
    ) -> None:
        self._problems.append(Problem(condition, text, path, occurrence, severity))

    def _mapped(self, *requests: Request) -> Mapped:
        problems = tuple(dict.fromkeys(self._problems))
        refused = any(problem.severity is Severity.ERROR for problem in problems)
        return Mapped(() if refused else requests, problems)


@dataclass(slots=True)
class _Step:
    """One step as read."""

    read: Read
    time_unspecified: bool

    def details(self) -> StepDetails:
        changes = dict(self.read.changes)
        step_id = changes.pop("ScheduledProcedureStepID", None)
        return StepDetails(_plain_text(step_id) or None, changes, self.time_unspecified, self.read.sources)


@dataclass(slots=True)
class _Order:
    """One ORC group as read; groups that mean the same order are joined."""

    actions: tuple[OrderAction, ...]
    control: str
    status: str | None
    order: Read
    placer: EntityIdentifier | None
    filler: EntityIdentifier | None
    occurred_at: datetime | None
    steps: list[tuple[Read, _Step]]

    @property
    def key(self) -> tuple[object, ...]:
        accession = _plain_text(self.order.changes.get("AccessionNumber"))
        return (self.actions, self.status, accession or (self.placer, self.filler))

    def details(self, steps_are_complete: bool) -> list[OrderDetails]:
        changes: dict[str, AttributeValue | None] = {
            key: value for key, value in self.order.changes.items() if key not in _TYPED["order"]
        }
        return [
            OrderDetails(
                action=action,
                order_control=self.control,
                order_status=self.status,
                placer_order_number=self.placer,
                filler_order_number=self.filler,
                accession_number=_plain_text(self.order.changes.get("AccessionNumber")) or None,
                issuer_of_accession_number=_plain_text(self.order.changes.get("IssuerOfAccessionNumber"))
                or None,
                procedures=self._procedures(),
                occurred_at=self.occurred_at,
                changes=changes,
                sources=self.order.sources,
                steps_are_complete=steps_are_complete,
            )
            for action in self.actions
        ]

    def _procedures(self) -> tuple[ProcedureDetails, ...]:
        """Group steps by requested procedure: same id and same UID is the same procedure."""
        groups: dict[tuple[str, str], tuple[Read, list[StepDetails]]] = {}
        for procedure, step in self.steps:
            key = (
                _plain_text(procedure.changes.get("RequestedProcedureID")),
                _plain_text(procedure.changes.get("StudyInstanceUID")),
            )
            groups.setdefault(key, (procedure, []))[1].append(step.details())
        return tuple(
            ProcedureDetails(
                procedure_id or None,
                uid or None,
                tuple(steps),
                {key: value for key, value in read.changes.items() if key not in _TYPED["procedure"]},
                read.sources,
            )
            for (procedure_id, uid), (read, steps) in groups.items()
        )


def _joined(parts: list[_Order]) -> list[_Order]:
    """Join the groups of a message that mean the same order (IHE RAD TF-2 4.4: one group per step)."""
    joined: dict[tuple[object, ...], _Order] = {}
    for part in parts:
        first = joined.setdefault(part.key, part)
        if first is not part:
            first.steps += part.steps
    return list(joined.values())


def _plain_text(value: object) -> str:
    """Give the text of a value, or of the first of several."""
    if isinstance(value, str):
        return value
    if isinstance(value, tuple) and value:
        first = value[0]
        return first if isinstance(first, str) else first.value
    return ""


def _write_side(side: str, read: Read, keyword: str) -> None:
    text = read.changes.get(keyword)
    if isinstance(text, str) and side not in text.upper():
        read.changes[keyword] = f"{side} {text}"[:64]
