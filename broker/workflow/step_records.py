"""Scheduled procedure steps, brought to what a message says of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from broker.domain.attributes import apply_changes, change_text, merge_sources, shown
from broker.domain.events import EventName, Subject
from broker.domain.orders import (
    AttributeValue,
    Changes,
    OrderDetails,
    RequestedProcedure,
    ScheduledProcedureStep,
    StepDetails,
    WorklistEntry,
)
from broker.domain.steps import StepStatus
from broker.domain.uids import ORIGINAL_SUFFIX, short_id
from broker.workflow.message_work import MessageWork
from broker.workflow.order_policy import UNASSIGNED_AE_TITLE
from broker.workflow.order_tree import GENERATED, OrderTree, refuse_after_start, told_sources, without

OF_MODALITY = "devices of the modality"
"""The source of stations that were filled in because the order named none."""

_LOCKED_STEP = (
    "Modality",
    "ScheduledStationAETitle",
    "ScheduledProtocolCodeSequence",
    "ScheduledProcedureStepID",
)
_STEP_FIELDS: Mapping[str, str] = {
    "Modality": "modality",
    "ScheduledProcedureStepStartDate": "start_date",
    "ScheduledProcedureStepStartTime": "start_time",
}
_STATIONS = "ScheduledStationAETitle"
_STEP_KEYS = frozenset({*_STEP_FIELDS, _STATIONS, "ScheduledProcedureStepID", "ScheduledProcedureStepStatus"})
_MIDNIGHT = "000000"


def apply_steps(
    work: MessageWork,
    tree: OrderTree,
    details: OrderDetails,
    procedure: RequestedProcedure,
    spoken: tuple[StepDetails, ...],
    status: StepStatus,
) -> set[int]:
    """Create or change the steps of one procedure; answer the ids of those that are new or changed."""
    if not spoken:
        # Named without its steps, a procedure stands for all it has.
        work.touched_steps |= {step.id for step in tree.steps_of(procedure.id)}
    if not spoken and not tree.steps_of(procedure.id):
        spoken = (StepDetails(None),)
    named = {_short_step_id(details, wanted) for wanted in spoken if wanted.scheduled_procedure_step_id}
    dirty: set[int] = set()
    for wanted in spoken:
        known = _match_step(work, tree, details, procedure, wanted, named)
        if known is None:
            step = _new_step(work, tree, details, procedure, wanted, status)
            step = work.add_step(WorklistEntry(tree.patient, tree.order, procedure, step))
            tree.steps.append(step)
            dirty.add(step.id)
            continue
        work.touched_steps.add(known.id)
        if _change_step(work, tree, details, wanted, known):
            dirty.add(known.id)
    return dirty


def _short_step_id(details: OrderDetails, wanted: StepDetails) -> str | None:
    given = wanted.scheduled_procedure_step_id
    return short_id(given, issuer=details.issuer_of_accession_number) if given else None


def _match_step(
    work: MessageWork,
    tree: OrderTree,
    details: OrderDetails,
    procedure: RequestedProcedure,
    wanted: StepDetails,
    named: set[str | None],
) -> ScheduledProcedureStep | None:
    """Find the stored step a message means: by id, else the next one nobody has named yet."""
    own = _short_step_id(details, wanted)
    known = tree.steps_of(procedure.id)
    if own:
        for step in known:
            if step.scheduled_procedure_step_id == own:
                return step
    free = [s for s in known if s.id not in work.touched_steps and s.scheduled_procedure_step_id not in named]
    made_up = [step for step in free if step.sources.get("ScheduledProcedureStepID") == GENERATED]
    if own:
        return made_up[0] if made_up else None
    # A sender that once named the only step and now does not still means it.
    return made_up[0] if made_up else (free[0] if len(free) == 1 else None)


def _new_step(
    work: MessageWork,
    tree: OrderTree,
    details: OrderDetails,
    procedure: RequestedProcedure,
    wanted: StepDetails,
    status: StepStatus,
) -> ScheduledProcedureStep:
    sources = dict(wanted.sources)
    own = _short_step_id(details, wanted)
    if own is None:
        own = _free_step_id(tree, procedure)
        sources["ScheduledProcedureStepID"] = GENERATED
    elif own != wanted.scheduled_procedure_step_id:
        sources["ScheduledProcedureStepID" + ORIGINAL_SUFFIX] = wanted.scheduled_procedure_step_id or ""
    attributes, _ = apply_changes({}, without(wanted.changes, _STEP_KEYS))
    blank = ScheduledProcedureStep(
        id=0,
        procedure=procedure.id,
        scheduled_procedure_step_id=own,
        modality=None,
        station_ae_titles=(),
        start_date=None,
        start_time=None,
        status=status,
        previous_status=StepStatus.SCHEDULED if status is StepStatus.HELD else None,
        attributes=attributes,
        sources=sources,
    )
    return _with_fields(work, blank, wanted)


def _free_step_id(tree: OrderTree, procedure: RequestedProcedure) -> str:
    """Make a step id: the procedure's own for the first step, then numbered."""
    used = {step.scheduled_procedure_step_id for step in tree.steps_of(procedure.id)}
    stem, number = procedure.requested_procedure_id, 1
    own = stem
    while own in used:
        number += 1
        own = short_id(f"{stem}.{number}", issuer=procedure.study_instance_uid)
    return own


def _with_fields(
    work: MessageWork, step: ScheduledProcedureStep, wanted: StepDetails
) -> ScheduledProcedureStep:
    """Answer the step with the attributes that are fields of their own, and with stations where it has none."""
    texts = {
        name: change_text(getattr(step, name), wanted.changes, key) for key, name in _STEP_FIELDS.items()
    }
    unspecified = step.time_unspecified
    if wanted.changes.get("ScheduledProcedureStepStartTime"):
        unspecified = wanted.time_unspecified
    elif wanted.changes.get("ScheduledProcedureStepStartDate") and wanted.time_unspecified:
        texts["start_time"] = None
    if texts["start_date"] and not texts["start_time"]:
        texts["start_time"], unspecified = _MIDNIGHT, True
    sources = dict(step.sources)
    stations = _stations(step, wanted.changes)
    if stations != step.station_ae_titles:
        sources.pop(_STATIONS, None)
        if _STATIONS in wanted.sources:
            sources[_STATIONS] = wanted.sources[_STATIONS]
    modality = texts["modality"]
    if modality and (not stations or sources.get(_STATIONS) == OF_MODALITY):
        # Any room of the modality may take it; better twice on a list than on none.
        stations = work.policy.stations.get(modality, ())
        if not stations:
            work.warn(f"no device does {modality}: the step is on no scanner's own worklist")
            stations = (UNASSIGNED_AE_TITLE,)
        sources[_STATIONS] = OF_MODALITY
    return replace(
        step,
        modality=modality,
        start_date=texts["start_date"],
        start_time=texts["start_time"],
        time_unspecified=unspecified,
        station_ae_titles=stations,
        sources=sources,
    )


def _stations(step: ScheduledProcedureStep, changes: Changes) -> tuple[str, ...]:
    value = changes.get(_STATIONS, "")
    if value is None:
        return ()
    if not value:
        return step.station_ae_titles
    return (value,) if isinstance(value, str) else tuple(v for v in value if isinstance(v, str))


def _change_step(
    work: MessageWork,
    tree: OrderTree,
    details: OrderDetails,
    wanted: StepDetails,
    known: ScheduledProcedureStep,
) -> bool:
    attributes, changed = apply_changes(known.attributes, without(wanted.changes, _STEP_KEYS))
    updated = _with_fields(work, replace(known, attributes=attributes), wanted)
    own = _short_step_id(details, wanted)
    if own and own != known.scheduled_procedure_step_id:
        updated = replace(updated, scheduled_procedure_step_id=own)
        changed.append("ScheduledProcedureStepID")
    changed += [key for key, name in _STEP_FIELDS.items() if getattr(known, name) != getattr(updated, name)]
    if known.station_ae_titles != updated.station_ae_titles:
        changed.append(_STATIONS)
    if not changed and known.time_unspecified == updated.time_unspecified:
        return False
    refuse_after_start(work, [known], changed, _LOCKED_STEP)
    kept = {key: value for key, value in updated.sources.items() if value == OF_MODALITY}
    sources = merge_sources(
        updated.sources, {"ScheduledProcedureStepID": "message", **wanted.sources}, changed
    )
    updated = replace(updated, sources={**sources, **kept})
    tree.keep(updated)
    work.record(
        EventName.STEP_CHANGED,
        Subject.STEP,
        known.id,
        order=tree.order.id,
        study_instance_uid=tree.entry(updated).procedure.study_instance_uid,
        keywords=changed,
        changed=[f"{key}: {shown(_value(known, key))} -> {shown(_value(updated, key))}" for key in changed],
        sources=told_sources(wanted.sources, changed),
    )
    return True


def _value(step: ScheduledProcedureStep, keyword: str) -> AttributeValue | None:
    if keyword in _STEP_FIELDS:
        text = getattr(step, _STEP_FIELDS[keyword])
        return str(text) if text else None
    if keyword == _STATIONS:
        return step.station_ae_titles
    return (
        step.scheduled_procedure_step_id
        if keyword == "ScheduledProcedureStepID"
        else step.attributes.get(keyword)
    )
