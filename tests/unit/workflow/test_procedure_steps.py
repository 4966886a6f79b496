from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import text

from broker.db.worklist_query import SqlWorklistReader
from broker.dicom.objects.answers import WorklistEncoder, unpack
from broker.domain.devices import DeviceProfile
from broker.domain.identity import PersonEvidence
from broker.domain.matching import WorklistQuery
from broker.domain.orders import PatientIdentifier
from broker.domain.steps import OrderStatus, PerformedStatus, StepStatus
from broker.errors import DuplicateKey, IllegalTransition, NotFound
from broker.workflow.procedure_steps import (
    FeedbackTarget,
    PerformedItem,
    PerformedPolicy,
    PerformedState,
    PerformedWork,
    create_performed_step,
    update_performed_step,
)
from broker.workflow.worklist import Worklist
from tests.worklist_database import NoQueue, StillClock, sqlite_engine, store, units_of_work
from tests.worklist_entries import an_entry

IN_PROGRESS, COMPLETED, DISCONTINUED = PerformedStatus
IMAGES = {"1.2.9": ("1.2.9.1", "1.2.9.2")}


class Messages:
    """Writes messages a test can read."""

    def status_message(self, entry, performed, status):
        return f"{status.value} {entry.step.scheduled_procedure_step_id}".encode()


class Says:
    """A modification list that says one thing, whatever is stored."""

    def __init__(self, state):
        self.state = state

    def apply_to(self, data_set):
        return self.state


class Site:
    """A broker with a database and a RIS that wants to hear."""

    def __init__(self, folder, **policy):
        self.context = sqlite_engine(folder)
        self.engine = self.context.__enter__()
        self.clock = StillClock()
        self.queue = NoQueue()
        self.policy = PerformedPolicy(feedback=FeedbackTarget("ris"), **policy)

    def store(self, *entries):
        return store(self.engine, *entries, clock=self.clock)

    def create(self, uid, state, calling="CT1"):
        with units_of_work(self.engine, self.clock, self.queue)() as uow:
            work = PerformedWork(uow, self.clock, WorklistEncoder(), Messages(), self.policy)
            performed = create_performed_step(work, uid, state, calling_ae_title=calling)
            uow.commit()
        return performed

    def set(self, uid, state):
        with units_of_work(self.engine, self.clock, self.queue)() as uow:
            work = PerformedWork(uow, self.clock, WorklistEncoder(), Messages(), self.policy)
            performed = update_performed_step(work, uid, Says(state))
            uow.commit()
        return performed

    def step(self, entry):
        with units_of_work(self.engine)() as uow:
            return uow.steps.get(entry.step.id)

    def order(self, entry):
        with units_of_work(self.engine)() as uow:
            return uow.orders.get(entry.order.id).status

    def rows(self, statement):
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(statement))]

    @property
    def messages(self):
        return [bytes(p).decode() for (p,) in self.rows("SELECT payload FROM delivery ORDER BY id")]

    @property
    def events(self):
        return [name for (name,) in self.rows("SELECT name FROM event ORDER BY id")]

    @property
    def visible(self):
        device = DeviceProfile(modalities=())
        return [
            a.step for a in Worklist(SqlWorklistReader(self.engine), self.clock).find(WorklistQuery(), device)
        ]


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    yield site
    site.context.__exit__(None, None, None)


def item(entry, **changes):
    return replace(
        PerformedItem(
            entry.procedure.study_instance_uid,
            entry.order.accession_number,
            entry.procedure.requested_procedure_id,
            entry.step.scheduled_procedure_step_id,
        ),
        **changes,
    )


def person(entry, **changes):
    evidence = PersonEvidence(
        (PatientIdentifier(entry.patient.patient_id, None),), entry.patient.name, entry.patient.birth_date
    )
    return replace(evidence, **changes)


def state(*entries, status=IN_PROGRESS, **changes):
    made = PerformedState(
        status,
        f"{status.value}{changes}".encode(),
        tuple(item(entry) for entry in entries),
        person(entries[0]) if entries else PersonEvidence(),
        "CT1",
        "CT",
        "20261121091500",
    )
    return replace(made, **changes)


def test_a_simple_exam_starts_completes_and_tells_the_ris(site):
    (entry,) = site.store(an_entry(1))
    performed = site.create("1.2.3", state(entry))
    assert performed.matched
    assert site.step(entry).status is StepStatus.STARTED
    assert site.order(entry) is OrderStatus.IN_PROGRESS
    assert site.visible == []
    site.set("1.2.3", state(entry, series=IMAGES))
    assert site.step(entry).status is StepStatus.STARTED
    site.set("1.2.3", state(entry, status=COMPLETED, series=IMAGES))
    assert site.step(entry).status is StepStatus.COMPLETED
    assert site.order(entry) is OrderStatus.COMPLETED
    assert site.messages == ["IN PROGRESS S1", "COMPLETED S1"]
    assert [wake.destination_kind for wake in site.queue.wake_ups] == ["mllp", "mllp"]
    keys = {key for (key,) in site.rows("SELECT ordering_key FROM delivery")}
    assert keys == {f"order:{entry.order.id}"}
    assert site.events == [
        "performed step created", "step status changed", "order status changed", "delivery created",
        "performed step updated",
        "performed step finished", "step status changed", "order status changed", "delivery created",
    ]  # fmt: skip


def test_study_date_and_time_become_those_of_the_earliest_start(site):
    (entry,) = site.store(an_entry(1))
    site.create("1.2.3", state(entry))
    site.create("1.2.4", state(entry, started_at="20261121080000"))
    site.create("1.2.5", state(entry, started_at="20261121100000"))
    with units_of_work(site.engine)() as uow:
        attributes = uow.steps.entry(entry.step.id).procedure.attributes
    assert (attributes["StudyDate"], attributes["StudyTime"]) == ("20261121", "080000")


def test_a_second_creation_is_refused_and_changes_nothing(site):
    (entry,) = site.store(an_entry(1))
    site.create("1.2.3", state(entry))
    before = site.rows("SELECT * FROM performed_procedure_step"), site.messages, site.events
    with pytest.raises(DuplicateKey):
        site.create("1.2.3", state(entry, modality="MR"))
    assert (site.rows("SELECT * FROM performed_procedure_step"), site.messages, site.events) == before


def test_a_repeated_creation_succeeds_where_the_site_wants_that(site):
    (entry,) = site.store(an_entry(1))
    site.policy = replace(site.policy, idempotent_create=True)
    first = site.create("1.2.3", state(entry))
    assert site.create("1.2.3", state(entry)).id == first.id
    with pytest.raises(DuplicateKey):
        site.create("1.2.3", state(entry), calling="CT2")
    assert site.messages == ["IN PROGRESS S1"]


@pytest.mark.parametrize("final", [COMPLETED, DISCONTINUED])
@pytest.mark.parametrize("then", list(PerformedStatus))
def test_nothing_follows_a_final_state(site, final, then):
    (entry,) = site.store(an_entry(1))
    site.create("1.2.3", state(entry))
    site.set("1.2.3", state(entry, status=final, series=IMAGES))
    before = site.rows("SELECT * FROM performed_procedure_step"), site.messages, site.events
    with pytest.raises(IllegalTransition, match="may no longer be updated"):
        site.set("1.2.3", state(entry, status=then))
    assert (site.rows("SELECT * FROM performed_procedure_step"), site.messages, site.events) == before


def test_an_exact_repetition_of_the_end_succeeds_where_the_site_wants_that(site):
    (entry,) = site.store(an_entry(1))
    site.policy = replace(site.policy, idempotent_final=True)
    site.create("1.2.3", state(entry))
    site.set("1.2.3", state(entry, status=COMPLETED))
    site.set("1.2.3", state(entry, status=COMPLETED))
    with pytest.raises(IllegalTransition):
        site.set("1.2.3", state(entry, status=COMPLETED, modality="MR"))
    assert site.messages == ["IN PROGRESS S1", "COMPLETED S1"]


def test_an_unknown_step_cannot_be_set(site):
    with pytest.raises(NotFound):
        site.set("1.2.3", state())


def test_a_wrong_tap_gives_the_step_back_to_the_worklist_and_sends_no_cancellation(site):
    (entry,) = site.store(an_entry(1, status=StepStatus.ARRIVED))
    site.create("1.2.3", state(entry))
    site.set("1.2.3", state(entry, status=DISCONTINUED))
    assert site.step(entry).status is StepStatus.ARRIVED
    assert site.order(entry) is OrderStatus.SCHEDULED
    assert site.visible == [entry.step.id]
    assert site.messages == ["IN PROGRESS S1"]


@pytest.mark.parametrize("reason", ["110514", "110501"])
def test_a_wrong_entry_or_a_failed_tube_gives_the_step_back_even_with_images(site, reason):
    (entry,) = site.store(an_entry(1))
    site.create("1.2.3", state(entry))
    site.set("1.2.3", state(entry, status=DISCONTINUED, series=IMAGES, discontinuation_reason=reason))
    assert site.step(entry).status is StepStatus.SCHEDULED
    assert site.messages == ["IN PROGRESS S1"]


def test_a_step_discontinued_with_images_stays_visible_and_the_ris_hears_it(site):
    (entry,) = site.store(an_entry(1))
    site.create("1.2.3", state(entry))
    site.set("1.2.3", state(entry, status=DISCONTINUED, series=IMAGES))
    assert site.step(entry).status is StepStatus.DISCONTINUED
    assert site.order(entry) is OrderStatus.DISCONTINUED
    assert site.visible == [entry.step.id]
    assert site.messages == ["IN PROGRESS S1", "DISCONTINUED S1"]
    site.clock.instant += timedelta(days=15)
    assert site.visible == []


def group(number, steps):
    """Several steps of one order and one procedure."""
    first = an_entry(number)
    return [
        replace(first, step=replace(first.step, id=n, scheduled_procedure_step_id=f"S{number}.{n}"))
        for n in range(1, steps + 1)
    ]


def test_one_performed_step_for_several_scheduled_ones_moves_all(site):  # IHE RAD-6 group case
    entries = site.store(*group(1, 2), an_entry(2))
    together = [entries[0], entries[1], entries[2]]
    report = state(*together)
    # The third step is another patient's order: it is left alone.
    site.create("1.2.3", report)
    assert [site.step(entry).status for entry in together] == [
        StepStatus.STARTED,
        StepStatus.STARTED,
        StepStatus.SCHEDULED,
    ]
    site.set("1.2.3", replace(report, status=COMPLETED))
    assert site.messages == ["IN PROGRESS S1.1", "IN PROGRESS S1.2", "COMPLETED S1.1", "COMPLETED S1.2"]


def test_the_other_steps_of_a_procedure_answer_its_study_date_too(site):
    one, two = site.store(*group(1, 2))
    site.create("1.2.3", state(one))
    lists = Worklist(SqlWorklistReader(site.engine), site.clock)
    (answer,) = lists.find(WorklistQuery(), DeviceProfile())
    assert answer.step == two.step.id
    root, _ = unpack(answer.elements)
    assert root[0x00080020].value == b"20261121"


def test_the_order_is_complete_for_the_ris_only_when_all_of_it_is(site):
    one, two = site.store(*group(1, 2))
    site.create("1.2.3", state(one))
    site.set("1.2.3", state(one, status=COMPLETED))
    assert site.order(one) is OrderStatus.IN_PROGRESS
    assert site.messages == ["IN PROGRESS S1.1"]
    site.create("1.2.4", state(two))
    site.set("1.2.4", state(two, status=COMPLETED))
    assert site.messages[2:] == ["COMPLETED S1.1", "COMPLETED S1.2"]


def test_a_split_exam_is_complete_when_its_last_part_is(site):
    (entry,) = site.store(an_entry(1))
    site.create("1.2.3", state(entry))
    site.create("1.2.4", state(entry))
    site.set("1.2.3", state(entry, status=COMPLETED))
    assert site.step(entry).status is StepStatus.STARTED
    site.set("1.2.4", state(entry, status=DISCONTINUED))
    assert site.step(entry).status is StepStatus.COMPLETED
    assert site.messages == ["IN PROGRESS S1", "IN PROGRESS S1", "COMPLETED S1"]


def test_appending_to_a_completed_step_never_moves_it_backwards(site):
    (entry,) = site.store(an_entry(1))
    site.create("1.2.3", state(entry))
    site.set("1.2.3", state(entry, status=COMPLETED))
    site.create("1.2.4", state(entry))
    assert site.step(entry).status is StepStatus.COMPLETED
    site.set("1.2.4", state(entry, status=DISCONTINUED))
    assert site.step(entry).status is StepStatus.COMPLETED
    assert site.messages == ["IN PROGRESS S1", "COMPLETED S1"]
    assert len(site.rows("SELECT * FROM performed_step_link")) == 2


def test_a_report_about_another_patient_moves_nothing_and_says_so(site):
    (entry,) = site.store(an_entry(1))
    stranger = PersonEvidence((PatientIdentifier("OTHER", None),), "BACH^ANNA", "17010922")
    performed = site.create("1.2.3", state(entry, person=stranger))
    assert performed.patient_mismatch
    assert site.step(entry).status is StepStatus.SCHEDULED
    assert site.messages == []
    assert "performed step patient mismatch" in site.events
    site.set("1.2.3", state(entry, person=stranger, status=COMPLETED))
    assert site.step(entry).status is StepStatus.SCHEDULED


def test_a_report_without_a_patient_is_taken_at_its_ids(site):
    (entry,) = site.store(an_entry(1))
    site.create("1.2.3", state(entry, person=PersonEvidence()))
    assert site.step(entry).status is StepStatus.STARTED


def test_ids_nobody_knows_are_kept_unmatched(site):
    performed = site.create("1.2.3", state(items=(PerformedItem("1.2.3.4", "NONE", "NONE", "NONE"),)))
    assert not performed.matched
    assert site.events == ["performed step created", "performed step unmatched"]


def test_a_unscheduled_exam_is_proposed_and_never_linked_by_itself(site):
    (entry,) = site.store(an_entry(1, start=("20261121", "0900")))
    report = state(items=(PerformedItem("1.2.3.4"),), person=person(entry))
    performed = site.create("1.2.3", report)
    assert not performed.matched
    assert site.step(entry).status is StepStatus.SCHEDULED
    ((details,),) = site.rows("SELECT details FROM event WHERE name='performed step unmatched'")
    assert f'"{entry.step.id}"' in details
    site.policy = replace(site.policy, auto_link=True)
    assert site.create("1.2.4", report).matched
    assert site.step(entry).status is StepStatus.STARTED


@pytest.mark.parametrize("before", [StepStatus.CANCELED, StepStatus.HELD, StepStatus.READY])
def test_what_was_performed_is_a_fact_whatever_the_order_says(site, before):
    (entry,) = site.store(an_entry(1, status=before))
    site.create("1.2.3", state(entry))
    assert site.step(entry).status is StepStatus.STARTED
    site.set("1.2.3", state(entry, status=DISCONTINUED))
    assert site.step(entry).status is before


def test_without_a_destination_the_ris_is_told_nothing(site):
    (entry,) = site.store(an_entry(1))
    site.policy = PerformedPolicy()
    site.create("1.2.3", state(entry))
    assert site.messages == []
    assert site.queue.wake_ups == []
