"""Patients, orders, steps, performed steps, messages, instances and decisions, stored and found on both databases."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import select

from broker.db.encoding import storable_json, storable_values
from broker.db.schema import EVENT, PATIENT_ALIAS, STEP, STEP_STATION, STUDY
from broker.domain.delivery import DeliveryState
from broker.domain.events import Event, EventName, Subject
from broker.domain.orders import Code, EntityIdentifier, ProcedureDetails, StepDetails
from broker.domain.steps import OrderStatus, PerformedStatus, StepStatus
from broker.errors import DuplicateKey, IllegalTransition, InvalidValue, NotFound
from broker.workflow.decisions_port import StoredDecision
from broker.workflow.destinations_port import DestinationHealth, DestinationState
from broker.workflow.images_port import InstanceState
from broker.workflow.messages_port import MessageOutcome
from tests.builders import (
    NOW,
    a_delivery,
    a_message,
    a_patient,
    a_performed_step,
    a_procedure,
    a_step,
    a_stored_entry,
    an_identifier,
    an_instance,
    an_order,
    order_details,
)

LATER = NOW + timedelta(hours=1)


@pytest.fixture
def uow(uow_factory):
    with uow_factory() as uow:
        yield uow


def rows(uow, table):
    return list(uow._transaction.execute(select(table).order_by(table.c.id)).mappings())


# ---- patients ------------------------------------------------------------------------------------------


def test_a_patient_is_found_by_value_and_issuer(uow):
    mine = uow.patients.add(a_patient(1), now=NOW)
    other = uow.patients.add(a_patient(1, issuer="ELSEWHERE"), now=NOW)
    assert uow.patients.find(an_identifier("PID1", "HOSP")) == mine
    assert uow.patients.find(an_identifier("PID1", "ELSEWHERE")) == other
    assert uow.patients.find(an_identifier("PID1", "THIRD")) is None
    assert uow.patients.find(an_identifier("PID9", "HOSP")) is None


def test_without_an_issuer_a_patient_is_found_only_if_exactly_one_fits(uow):
    mine = uow.patients.add(a_patient(1), now=NOW)
    assert uow.patients.find(an_identifier("PID1")) == mine
    uow.patients.add(a_patient(1, issuer="ELSEWHERE"), now=NOW)
    assert uow.patients.find(an_identifier("PID1")) is None
    nameless = uow.patients.add(a_patient(1, issuer=None), now=NOW)
    assert uow.patients.find(an_identifier("PID1")) == nameless
    assert uow.patients.find(an_identifier("PID1", "HOSP")) == mine


def test_a_stored_patient_without_issuer_is_found_by_any_issuer(uow):
    nameless = uow.patients.add(a_patient(1, issuer=None), now=NOW)
    assert nameless.issuer is None
    assert uow.patients.find(an_identifier("PID1", "HOSP")) == nameless


def test_an_alias_finds_its_patient_and_never_another_ones(uow):
    mine = uow.patients.add(a_patient(1, other_ids=(an_identifier("OLD", "HOSP"),)), now=NOW)
    assert uow.patients.find(an_identifier("OLD", "HOSP")) == mine
    thief = uow.patients.add(a_patient(2, other_ids=(an_identifier("OLD", "HOSP"),)), now=NOW)
    assert uow.patients.find(an_identifier("OLD", "HOSP")) == mine
    assert uow.patients.find(an_identifier("PID2", "HOSP")) == thief
    uow.patients.save(replace(mine, other_ids=()), now=LATER)
    assert [row["patient"] for row in rows(uow, PATIENT_ALIAS)] == []


def test_the_same_patient_is_not_stored_twice(uow):
    uow.patients.add(a_patient(1), now=NOW)
    with pytest.raises(DuplicateKey):
        uow.patients.add(a_patient(1), now=NOW)
    uow.patients.add(a_patient(2), now=NOW)  # the transaction goes on


def test_a_changed_name_reaches_the_worklist_copies(uow):
    entry = a_stored_entry(uow)
    uow.patients.save(replace(entry.patient, name="Müller^Eva=", patient_id="NEW"), now=LATER)
    (step,) = rows(uow, STEP)
    assert (step["patient_id"], step["name_key"]) == ("NEW", "MULLER^EVA")
    with pytest.raises(NotFound):
        uow.patients.save(replace(entry.patient, id=99), now=NOW)


def test_a_merge_moves_orders_and_steps_and_every_finder_follows(uow):
    one, two = a_stored_entry(uow, 1), a_stored_entry(uow, 2)
    assert uow.patients.merge(absorbed=one.patient.id, survivor=two.patient.id, now=LATER) == [one.order.id]
    assert uow.patients.find(an_identifier("PID1", "HOSP")) == two.patient
    assert uow.patients.get(one.patient.id) == two.patient
    assert [order.id for order in uow.orders.of_patient(two.patient.id)] == [one.order.id, two.order.id]
    entries = uow.steps.entries_of_patient(two.patient.id, open_only=False)
    assert [entry.patient.patient_id for entry in entries] == ["PID2", "PID2"]
    assert {row["patient_id"] for row in rows(uow, STEP)} == {"PID2"}


def test_chains_of_merges_are_followed_and_circles_impossible(uow):
    one, two, three = (uow.patients.add(a_patient(n), now=NOW) for n in (1, 2, 3))
    merge = uow.patients.merge
    merge(absorbed=one.id, survivor=two.id, now=NOW)
    merge(absorbed=two.id, survivor=three.id, now=NOW)
    assert uow.patients.find(an_identifier("PID1", "HOSP")) == three
    assert merge(absorbed=one.id, survivor=three.id, now=NOW) == []
    assert merge(absorbed=three.id, survivor=one.id, now=NOW) == []
    with pytest.raises(IllegalTransition):
        merge(absorbed=three.id, survivor=three.id, now=NOW)
    assert uow.patients.get(one.id) == uow.patients.get(two.id) == three


# ---- orders --------------------------------------------------------------------------------------------


def test_an_order_and_its_procedure_come_back_as_stored(uow):
    patient = uow.patients.add(a_patient(), now=NOW)
    order = an_order(
        patient.id,
        placer_order_number=EntityIdentifier("P", "N", "1.2", "ISO"),
        filler_order_number=None,
        last_event_at=NOW,
        sources={"AccessionNumber": "OBR-18"},
    )
    stored = uow.orders.add(order, now=NOW)
    assert uow.orders.get(stored.id) == stored == replace(order, id=stored.id)
    procedure = uow.orders.add_procedure(
        a_procedure(stored.id, attributes={"RequestedProcedureCodeSequence": (Code("1", "L", "x"),)}), now=NOW
    )
    assert uow.orders.procedures(stored.id) == [procedure]
    assert uow.orders.procedures_with_study(procedure.study_instance_uid) == [procedure]
    assert uow.orders.with_accession("A1") == [stored]
    uow.orders.set_status(stored.id, OrderStatus.COMPLETED, now=LATER)
    assert uow.orders.get(stored.id).status is OrderStatus.COMPLETED
    with pytest.raises(NotFound):
        uow.orders.get(99)
    with pytest.raises(DuplicateKey):
        uow.orders.add_procedure(a_procedure(stored.id), now=NOW)


def test_changed_numbers_reach_the_worklist_copies(uow):
    entry = a_stored_entry(uow)
    uow.orders.save(replace(entry.order, accession_number="NEW"), now=LATER)
    uow.orders.save_procedure(
        replace(entry.procedure, study_instance_uid="1.9", requested_procedure_id="RPX"), now=LATER
    )
    (step,) = rows(uow, STEP)
    assert (step["accession_number"], step["study_instance_uid"]) == ("NEW", "1.9")
    assert step["requested_procedure_id"] == "RPX"
    assert uow.steps.entry(entry.step.id).procedure.study_instance_uid == "1.9"


def details_of(number, *, study=False, placer=False, filler=False, accession=False, procedure=False):
    steps = (StepDetails(f"SPS{number}"),)
    return order_details(
        placer_order_number=EntityIdentifier(f"P{number}", "RIS") if placer else None,
        filler_order_number=EntityIdentifier(f"F{number}", "RIS") if filler else None,
        accession_number=f"A{number}" if accession else None,
        procedures=(
            ProcedureDetails(
                f"RP{number}" if procedure else None, f"1.2.826.0.1.{number}" if study else None, steps
            ),
        ),
    )


@pytest.mark.parametrize(
    "known_by",
    [
        {"study": True},
        {"placer": True, "filler": True},
        {"filler": True},
        {"placer": True},
        {"accession": True, "procedure": True},
        {"accession": True},
    ],
    ids="+".join,
)
def test_an_order_is_identified_by(uow, known_by):
    entries = [a_stored_entry(uow, n) for n in (1, 2)]
    assert uow.orders.identify(details_of(2, **known_by), patient=None) == [entries[1].order]
    assert uow.orders.identify(details_of(3, **known_by), patient=None) == []


def test_the_first_rule_with_a_hit_answers(uow):
    one, two = a_stored_entry(uow, 1), a_stored_entry(uow, 2)
    says = replace(details_of(1, study=True), placer_order_number=EntityIdentifier("P2", "RIS"))
    assert uow.orders.identify(says, patient=None) == [one.order]
    says = replace(details_of(9, study=True), placer_order_number=EntityIdentifier("P2", "RIS"))
    assert uow.orders.identify(says, patient=None) == [two.order]


def test_assigning_authorities_qualify_where_both_sides_name_one(uow):
    entry = a_stored_entry(uow, 1)
    for identifier, hits in [
        (EntityIdentifier("P1"), 1),
        (EntityIdentifier("P1", "RIS"), 1),
        (EntityIdentifier("P1", "OTHER"), 0),
        (EntityIdentifier("P1", None, "1.2.3", "ISO"), 1),
    ]:
        found = uow.orders.identify(order_details(placer_order_number=identifier), patient=None)
        assert found == [entry.order] * hits


def test_several_hits_are_all_answered_unless_some_are_of_the_patient(uow):
    one = a_stored_entry(uow, 1)
    two = a_stored_entry(uow, 2, order={"accession_number": "A1"})
    says = order_details(accession_number="A1")
    assert uow.orders.identify(says, patient=None) == [one.order, two.order]
    assert uow.orders.identify(says, patient=two.patient.id) == [two.order]
    assert uow.orders.identify(says, patient=99) == [one.order, two.order]


# ---- steps ---------------------------------------------------------------------------------------------


def test_a_step_comes_back_as_stored_with_what_belongs_to_it(uow):
    entry = a_stored_entry(
        uow, step={"attributes": {"ScheduledStationName": "ROOM 1"}, "time_unspecified": True}
    )
    assert uow.steps.get(entry.step.id) == entry.step
    assert uow.steps.entry(entry.step.id) == entry
    assert uow.steps.of_order(entry.order.id) == uow.steps.of_procedure(entry.procedure.id) == [entry.step]
    with pytest.raises(NotFound):
        uow.steps.entry(99)


def test_saving_a_step_raises_its_revision_and_writes_its_copies_again(uow):
    entry = a_stored_entry(uow, step={"station_ae_titles": ("ct1", "CT2", "CT1")})
    assert [(r["ae_title"], r["offered"]) for r in rows(uow, STEP_STATION)] == [("CT1", True), ("CT2", True)]
    started = replace(entry.step, status=StepStatus.STARTED, previous_status=StepStatus.SCHEDULED)
    started = replace(started, station_ae_titles=("CT3",), start_date="20261122")
    uow.steps.save(replace(entry, step=started), elements=b"new", now=LATER)
    assert uow.steps.get(entry.step.id) == replace(started, revision=1)
    (step,) = rows(uow, STEP)
    assert (step["offered"], step["elements"], step["status_changed_at"]) == (False, b"new", LATER)
    (station,) = rows(uow, STEP_STATION)
    assert (station["ae_title"], station["offered"], station["start_date"]) == ("CT3", False, "20261122")
    uow.steps.save(replace(entry, step=started), elements=b"newer", now=LATER + timedelta(hours=1))
    assert rows(uow, STEP)[0]["status_changed_at"] == LATER


def test_an_incomplete_step_is_kept_but_not_offered(uow):
    a_stored_entry(uow, step={"missing": ("PatientName",)})
    assert rows(uow, STEP)[0]["offered"] is False


@pytest.mark.parametrize(("priority", "rank"), [("STAT", 1), ("stat", 1), ("LOW", 5), ("X", 4), (None, 4)])
def test_priority_is_a_rank(uow, priority, rank):
    attributes = {"RequestedProcedurePriority": priority} if priority else {}
    a_stored_entry(uow, procedure={"attributes": attributes})
    assert rows(uow, STEP)[0]["priority_rank"] == rank


def test_open_entries_of_a_patient_leave_out_what_is_final(uow):
    first = a_stored_entry(uow, 1)
    a_stored_entry(uow, 2, patient=first.patient, step={"status": StepStatus.COMPLETED})
    held = a_stored_entry(uow, 3, patient=first.patient, step={"status": StepStatus.HELD})
    entries = uow.steps.entries_of_patient(first.patient.id, open_only=True)
    assert [entry.step.id for entry in entries] == [first.step.id, held.step.id]
    assert len(uow.steps.entries_of_patient(first.patient.id, open_only=False)) == 3


@pytest.mark.parametrize(
    ("says", "found"),
    [
        (("1.2.826.0.1.1", "A2", "RP2", "SPS1"), [1]),
        (("1.9", "A1", "RP2", "SPS1"), [1]),
        ((None, None, "RP1", "SPS1"), [1]),
        ((None, "A1", "RP1", "SPS2"), []),
        (("1.2.826.0.1.1", "A1", "RP1", None), []),
        ((None, None, None, "SPS1"), []),
    ],
)
def test_a_performed_step_finds_its_scheduled_steps(uow, says, found):
    entries = {n: a_stored_entry(uow, n) for n in (1, 2)}
    names = (
        "study_instance_uid",
        "accession_number",
        "requested_procedure_id",
        "scheduled_procedure_step_id",
    )
    answer = uow.steps.find_for_performed(**dict(zip(names, says, strict=True)))
    assert answer == [entries[n] for n in found]


def test_the_same_step_of_a_procedure_is_not_stored_twice(uow):
    entry = a_stored_entry(uow)
    with pytest.raises(DuplicateKey):
        uow.steps.add(replace(entry, step=a_step(entry.procedure.id)), elements=b"", now=NOW)


# ---- performed steps -----------------------------------------------------------------------------------


def test_a_performed_step_is_created_once_and_linked(uow):
    entry = a_stored_entry(uow)
    step = uow.performed.add(a_performed_step(), now=NOW)
    with pytest.raises(DuplicateKey):
        uow.performed.add(a_performed_step(), now=NOW)
    assert uow.performed.find(step.sop_instance_uid, lock=True) == step
    assert uow.performed.find("1.9") is None
    done = replace(step, status=PerformedStatus.COMPLETED, study_instance_uids=("1.7", "1.8"), matched=True)
    uow.performed.save(done, now=LATER)
    uow.performed.link(step.id, entry.step.id)
    uow.performed.link(step.id, entry.step.id)
    assert uow.performed.steps_of(step.id) == [entry.step.id]
    assert uow.performed.performed_of(entry.step.id) == [done]
    assert uow.performed.of_study("1.8") == [done]
    uow.performed.save(replace(done, study_instance_uids=("1.7",)), now=LATER)
    assert uow.performed.of_study("1.8") == []
    assert uow.performed.of_study("1.7.9") == []


# ---- messages ------------------------------------------------------------------------------------------


def test_messages_with_a_key_are_found_newest_first(uow):
    first = uow.messages.add(a_message(1))
    second = uow.messages.add(a_message(1, raw=b"\x00\xff", answer=None, problems=({"field": "PID-5"},)))
    uow.messages.add(a_message(2))
    assert uow.messages.find("RIS", "HOSP", "M1") == [second, first]
    assert uow.messages.find("RIS", "OTHER", "M1") == []
    refused = replace(first, outcome=MessageOutcome.REFUSED, attempts=2)
    uow.messages.save(refused)
    assert uow.messages.get(first.id) == refused
    with pytest.raises(NotFound):
        uow.messages.get(99)


# ---- instances -----------------------------------------------------------------------------------------


def test_a_message_is_stored_under_the_id_reserved_for_it(uow):
    uow.messages.add(a_message(1))
    reserved = uow.messages.reserve()
    stored = uow.messages.add(replace(a_message(2), id=reserved))
    following = uow.messages.add(a_message(3))
    assert stored.id == reserved
    assert uow.messages.get(reserved) == stored
    assert following.id > reserved


def test_instances_are_stored_together_and_keep_their_order(uow):
    instances = [an_instance(n, study_instance_uid=f"1.{n % 3}") for n in range(40, 0, -1)]
    ids = uow.instances.add_many(instances)
    assert [uow.instances.get(key) for key in ids] == [
        replace(i, id=key) for i, key in zip(instances, ids, strict=True)
    ]
    assert uow.instances.undecided(5) == sorted(ids)[:5]
    assert uow.instances.undecided(5, older_than=NOW - timedelta(seconds=1)) == []
    assert uow.instances.add_many([]) == []
    assert {row["study_instance_uid"] for row in rows(uow, STUDY)} == {"1.0", "1.1", "1.2"}
    assert len(uow.instances.of_study("1.1")) == 14
    assert len(uow.instances.of_series(instances[0].series_instance_uid)) == 40


def test_rows_are_found_by_the_names_of_their_files(uow):
    names = [f"{number:032x}" for number in range(1200)]
    paths = [f"20261121/0907/{name}.dcm" for name in names]
    uow.instances.add_many([an_instance(n, path=path) for n, path in enumerate(paths[:600])])
    uow.instances.add_many([an_instance(5000, path=paths[700], received_at=NOW - timedelta(days=2))])
    assert uow.instances.paths_named(names) == {*paths[:600], paths[700]}
    assert uow.instances.paths_named(names[500:], since=NOW) == set(paths[500:600])
    assert uow.instances.paths_named([]) == set()


def test_every_version_of_an_object_is_kept(uow):
    first, second = uow.instances.add_many([an_instance(1), an_instance(1, version=2)])
    assert [i.id for i in uow.instances.versions(an_instance(1).sop_instance_uid)] == [second, first]


def test_an_instance_is_decided_once(uow):
    entry = a_stored_entry(uow)
    one, two = uow.instances.add_many([an_instance(1), an_instance(2)])
    assert uow.instances.decide(one, InstanceState.ROUTED, order=entry.order.id)
    assert not uow.instances.decide(one, InstanceState.UNROUTED, order=None)
    assert uow.instances.decide(two, InstanceState.UNROUTED, order=None)
    assert (uow.instances.get(one).state, uow.instances.get(one).order) == (
        InstanceState.ROUTED,
        entry.order.id,
    )
    assert [i.id for i in uow.instances.unrouted(9)] == [two]
    uow.instances.set_order(two, entry.order.id)
    uow.instances.mark_resent(two, now=LATER)
    again = uow.instances.get(two)
    assert (again.order, again.resends, again.last_received_at) == (entry.order.id, 1, LATER)


# ---- decisions and destinations ------------------------------------------------------------------------


def test_decisions_name_the_configuration_that_made_them(uow):
    (instance,) = uow.instances.add_many([an_instance()])
    version = uow.decisions.record_configuration("ab" * 32, "routes: []", by="admin", now=NOW)
    assert uow.decisions.record_configuration("ab" * 32, "routes: []", by="admin", now=NOW) == version
    assert uow.decisions.configuration_body(version) == "routes: []"
    decision = StoredDecision(
        0, instance, "1.2", version, NOW, {"Modality": ("CT",)}, ("a", "b"), ("body part",)
    )
    key = uow.decisions.add(decision)
    assert uow.decisions.of_study("1.2") == [replace(decision, id=key)]
    with pytest.raises(NotFound):
        uow.decisions.configuration_body(99)


def test_a_destination_keeps_its_last_state(uow):
    assert uow.destinations.get("a") is None
    up = DestinationState("a", DestinationHealth.UP, NOW)
    uow.destinations.save(up)
    paused = replace(up, state=DestinationHealth.PAUSED, reason="why", failures=3, open_until=LATER)
    uow.destinations.save(paused)
    assert uow.destinations.get("a") == paused
    assert uow.destinations.all() == [paused]


# ---- strange values of peers ---------------------------------------------------------------------------

STRANGE = "\x00\ud800ä" + "x" * 5000


def test_a_strange_message_is_kept_as_evidence_and_found_again(uow):
    problem = {"field": "MSH-10", "problem": f"not {STRANGE}"}
    message = a_message(message_control_id=STRANGE, sending_application=STRANGE, problems=(problem,))
    stored = uow.messages.add(replace(message, message_type=STRANGE, peer=STRANGE, raw=b"\x00" * 10))
    assert uow.messages.find(STRANGE, "HOSP", STRANGE) == [stored]
    assert stored.message_control_id.startswith("\ufffd?äxxx")


def test_a_strange_header_does_not_keep_an_image_out_and_no_number_is_cut(uow):
    image = an_instance(facts={"PatientID": (STRANGE,)}, patient_id=STRANGE, accession_number="A" * 65)
    (key,) = uow.instances.add_many([image])
    kept = uow.instances.get(key)
    assert kept.patient_id is kept.accession_number is None
    assert kept.facts["PatientID"][0].endswith("xxx")
    assert rows(uow, STUDY)[0]["patient_id"] is None


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"Modality": ("CT",), "StudyDescription": ()},
        {"PatientName": ("Müller^Ä",), "Modality": ("CT", "")},
        {"PatientName": ("A\x00B",), "PatientID": ("1",)},
        {"PatientName": ("\ud800",)},
        {"Sequence.\x00": ("1",)},
    ],
)
def test_facts_are_stored_like_every_other_text_of_a_peer(facts):
    assert json.dumps(storable_values(facts)) == json.dumps(storable_json(facts))


def test_strange_reasons_and_events_are_kept(uow):
    key = uow.deliveries.add(a_delivery(reason=STRANGE), now=NOW)
    uow.deliveries.claim(key, worker="w", now=NOW, lease=timedelta(seconds=90))
    assert uow.deliveries.settle(
        key, 1, state=DeliveryState.DEAD, reason=STRANGE, failure_class=None, failures=1, due_at=NOW, now=NOW
    )
    uow.destinations.save(DestinationState("a", DestinationHealth.FAILING, NOW, reason=STRANGE))
    details = {"said": STRANGE, "list": [STRANGE], STRANGE: 1}
    uow.record(Event(EventName.DELIVERY_DIED, Subject.DELIVERY, key, actor=STRANGE, details=details))
    uow.commit()
    assert len(rows(uow, EVENT)[0]["actor"]) == 128


def test_a_name_with_half_a_character_is_refused_and_not_a_crash(uow):
    with pytest.raises(InvalidValue):
        uow.patients.add(a_patient(name="A\ud800^B"), now=NOW)
