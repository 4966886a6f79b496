"""Groups the segments of a message by position: the patient, then one group per ORC/OBR, one step per IPC.

HL7 says by order what belongs together (HL7 v2.5.1 4.4); a note belongs to the nearest PID, ORC or OBR
before it, a ZDS (IHE RAD TF-2 4.4) to every order group since the previous one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from broker.hl7.tokenizer import Message, Segment


class Group:
    """Finds segments by name, its own first and then those of the group around it."""

    __slots__ = ("segments",)

    def __init__(self, segments: dict[str, list[Segment]], parent: Group | None = None) -> None:
        own = {name: found for name, found in segments.items() if found}
        around: dict[str, list[Segment]] = {} if parent is None else parent.segments
        self.segments: dict[str, list[Segment]] = {**around, **own}

    def first(self, name: str) -> Segment | None:
        """Give the first segment of a name."""
        found = self.segments.get(name)
        return found[0] if found is not None else None

    def all(self, name: str) -> list[Segment]:
        """List the segments of a name."""
        return self.segments.get(name, [])

    def without(self, name: str) -> Group:
        """See the group without the segments of a name."""
        return Group({other: found for other, found in self.segments.items() if other != name})


@dataclass(slots=True)
class OrderGroup:
    """Holds one ORC with its OBR, and what follows them."""

    orc: Segment | None
    segments: dict[str, list[Segment]] = field(default_factory=dict)
    order_notes: list[Segment] = field(default_factory=list)
    procedure_notes: list[Segment] = field(default_factory=list)

    @property
    def obr(self) -> Segment | None:
        """Give the OBR, if there is one."""
        found = self.segments.get("OBR")
        return found[0] if found else None

    def order_view(self, patient: Group) -> Group:
        """See the group as an order: notes are those after ORC."""
        return Group({**self.segments, "NTE": self.order_notes}, patient.without("NTE"))

    def procedure_view(self, patient: Group) -> Group:
        """See the group as a procedure: notes are those after OBR."""
        return Group({**self.segments, "NTE": self.procedure_notes}, patient.without("NTE"))

    def step_views(self, patient: Group) -> list[Group]:
        """See the group as its steps: one per IPC, or one for the OBR."""
        around = self.procedure_view(patient)
        steps = [Group({"IPC": [ipc]}, around) for ipc in self.segments.get("IPC", [])]
        return steps or [around]


@dataclass(slots=True)
class Grouped:
    """Holds a message by groups."""

    patient: Group
    """What describes patient and visit; anything else is found by its first occurrence in the message."""
    visit: Group
    """Patient and visit segments alone: what an order may inherit from."""
    orders: list[OrderGroup]
    prior_results: bool = False
    """A second PID began; what followed describes earlier results, not this order."""


_PATIENT_SEGMENTS = frozenset({"MSH", "EVN", "PID", "PD1", "PV1", "PV2", "AL1", "IAM", "NK1", "GT1", "IN1"})


def group_orders(message: Message) -> Grouped:
    """Group an order message."""
    visit: dict[str, list[Segment]] = {}
    everything: dict[str, list[Segment]] = {}
    orders: list[OrderGroup] = []
    since_zds: list[OrderGroup] = []
    current: OrderGroup | None = None
    notes = visit.setdefault("NTE", [])
    prior_results = False
    for segment in message.segments:
        name = segment.name
        everything.setdefault(name, []).append(segment)
        if name == "ORC" or (name == "OBR" and (current is None or current.obr is not None)):
            shared = current if name == "OBR" else None
            current = OrderGroup(segment if name == "ORC" else (shared.orc if shared else None))
            if shared is not None and shared.orc is not None:
                # Several OBR under one ORC: each is a service of its own under the same control.
                current.segments["ORC"] = [shared.orc]
                current.order_notes = shared.order_notes
            orders.append(current)
            since_zds.append(current)
            notes = current.order_notes
        if name == "PID" and current is not None:
            prior_results = True
            break
        if name == "NTE":
            notes.append(segment)
        elif name == "ZDS":
            for group in since_zds:
                group.segments["ZDS"] = [segment]
            since_zds = []
        elif current is None or name in _PATIENT_SEGMENTS:
            visit.setdefault(name, []).append(segment)
        else:
            current.segments.setdefault(name, []).append(segment)
            if name == "OBR":
                notes = current.procedure_notes
    visit_group = Group(visit)
    first_notes = {**everything, "NTE": visit["NTE"]}
    return Grouped(Group(first_notes), visit_group, orders, prior_results)


def group_patients(message: Message) -> list[Group]:
    """Group a patient message: one group per PID, with what follows it (A40 may repeat PID and MRG)."""
    head: dict[str, list[Segment]] = {}
    groups: list[dict[str, list[Segment]]] = []
    for segment in message.segments:
        if segment.name == "PID":
            groups.append({})
        target = groups[-1] if groups else head
        target.setdefault(segment.name, []).append(segment)
    parent = Group(head)
    return [Group(segments, parent) for segments in groups]
