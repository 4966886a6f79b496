"""From message to request: grouping, actions, patients, and messages that mean harm."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.domain.orders import Code, EntityIdentifier, MergePatients, OrderAction, UpdatePatient
from tests.unit.hl7.messages import PID, PV1, ZDS, hl7, msh, obr, orc, orm
from tests.unit.hl7.reading import OMI, conditions, omi, read, the_order


def test_an_order_is_read_with_its_identifiers_and_their_sources():
    order = the_order(orm())
    assert order.action is OrderAction.PLACE
    assert order.placer_order_number == EntityIdentifier("P100", "RIS")
    assert order.accession_number == "A100"
    (procedure,) = order.procedures
    assert (procedure.requested_procedure_id, procedure.study_instance_uid) == (
        "RP100",
        "1.2.826.0.1.3680043.10.1.77",
    )
    assert procedure.changes["RequestedProcedureDescription"] == "CT CHEST"
    assert procedure.changes["RequestedProcedureCodeSequence"] == (Code("CTCH", "99LOCAL", "CT CHEST"),)
    assert procedure.changes["RequestedProcedurePriority"] == "ROUTINE"
    (step,) = procedure.steps
    assert step.scheduled_procedure_step_id == "SP100"
    assert step.changes["Modality"] == "CT"
    assert step.changes["ScheduledProcedureStepStartDate"] == "20261121"
    assert step.changes["ScheduledProcedureStepStartTime"] == "100000"
    assert step.sources["ScheduledProcedureStepStartDate"] == "ORC-7.4"
    assert order.changes["RequestingPhysician"] == "REQUEST^RON"
    assert order.changes["ReferringPhysicianName"] == "REFER^RITA"


def test_a_patient_is_read_with_the_name_in_dicom_order():
    (request,) = read(orm()).requests
    changes = request.patient.changes
    assert changes["PatientName"] == "ZZTEST^SALLY^Q^DR^JR PHD"
    assert changes["PatientBirthDate"] == "19700203"
    assert changes["CurrentPatientLocation"] == "RAD/R1/B2"
    assert changes["AdmissionID"] == "V100"
    assert request.patient.identifiers[0].issuer == "HOSP"
    assert request.patient.sources["PatientName"] == "PID-5"


@pytest.mark.parametrize(
    ("control", "status", "action"),
    [
        ("NW", "", "place"), ("NW", "SC", "place"), ("NW", "CA", "cancel"), ("NW", "CM", "complete"),
        ("NW", "HD", "hold"), ("SN", "", "place"), ("RO", "SC", "place"), ("XO", "", "change"), ("XO", "CM", "complete"),
        ("XO", "CA", "cancel"), ("XO", "DC", "discontinue"), ("XO", "HD", "hold"), ("XX", "SC", "change"),
        ("CA", "", "cancel"), ("CA", "CA", "cancel"), ("OC", "", "cancel"), ("DC", "CA", "discontinue"),
        ("OD", "", "discontinue"), ("HD", "", "hold"), ("OH", "", "hold"), ("RL", "", "release"), ("RP", "RP", "cancel"),
        ("SC", "SC", "reschedule_status"), ("SC", "IP", "arrive"), ("SC", "A", "complete"), ("SC", "CM", "complete"),
        ("SC", "CA", "cancel"), ("SC", "DC", "discontinue"), ("SC", "HD", "hold"),
    ],
)  # fmt: skip
def test_order_control_and_status_choose_the_action(control, status, action):
    assert the_order(orm(control=control, status=status)).action.value == action


@pytest.mark.parametrize("control", ["OK", "RE", "SS", "NA", "UN"])
def test_controls_that_concern_no_worklist_are_ignored(control):
    assert read(orm(control=control, status="")).ignored


@pytest.mark.parametrize(
    ("control", "status"), [("", ""), ("QQ", ""), ("SC", "ZZ"), ("XO", "RP"), ("SC", "")]
)
def test_a_pair_that_is_not_in_the_table_is_refused_with_103(control, status):
    assert conditions(read(orm(control=control, status=status))) == [("103", "ORC-1")]


def test_groups_of_one_procedure_are_its_steps():
    text = orm(orc(), obr(step_id="S1", modality="CT"), orc(), obr(step_id="S2", modality="MR"), ZDS)
    order = the_order(text)
    (procedure,) = order.procedures
    assert [(s.scheduled_procedure_step_id, s.changes["Modality"]) for s in procedure.steps] == [
        ("S1", "CT"),
        ("S2", "MR"),
    ]
    assert order.steps_are_complete
    assert procedure.steps[1].sources["Modality"] == "OBR[2]-24"


def test_groups_with_different_procedure_ids_are_procedures_of_one_order():
    text = orm(orc(), obr(procedure_id="RP1"), ZDS, orc(), obr(procedure_id="RP2"), ZDS.replace(".77", ".78"))
    order = the_order(text)
    assert [(p.requested_procedure_id, p.study_instance_uid[-2:]) for p in order.procedures] == [
        ("RP1", "77"),
        ("RP2", "78"),
    ]


def test_groups_with_different_accession_numbers_are_orders():
    text = orm(orc(placer="P1"), obr(accession="A1"), orc(placer="P2"), obr(accession="A2"))
    (request,) = read(text).requests
    assert [(o.accession_number, o.placer_order_number.value) for o in request.orders] == [
        ("A1", "P1"),
        ("A2", "P2"),
    ]


def test_a_replacement_cancels_the_old_order_and_places_the_new_one():
    text = orm(
        orc("RP", "RP", placer="P1"), obr(accession="A1"), orc("RO", "SC", placer="P2"), obr(accession="A2")
    )
    (request,) = read(text).requests
    assert [o.action for o in request.orders] == [OrderAction.CANCEL, OrderAction.PLACE]


def test_several_obr_under_one_orc_share_it():
    text = orm(orc(), obr(step_id="S1"), obr(step_id="S2"))
    (procedure,) = the_order(text).procedures
    assert [s.scheduled_procedure_step_id for s in procedure.steps] == ["S1", "S2"]


def test_an_imaging_order_has_a_step_per_ipc():
    order = the_order(omi())
    assert (order.accession_number, order.issuer_of_accession_number) == ("A500", "HOSP")
    (procedure,) = order.procedures
    assert procedure.study_instance_uid == "1.2.3.500"
    assert procedure.changes["RequestedProcedurePriority"] == "STAT"
    one, two = procedure.steps
    assert one.changes["ScheduledStationAETitle"] == ("CT1", "CT2")
    assert one.changes["ScheduledProcedureStepStartTime"] == "083000"
    assert one.changes["ScheduledProtocolCodeSequence"] == (Code("PC1", "99LOCAL", "Chest prot"),)
    assert two.sources["Modality"] == "IPC[2]-5.1"
    assert order.steps_are_complete


def test_ipc_with_different_study_uids_are_procedures():
    order = the_order(omi(OMI[0], OMI[1].replace("1.2.3.500", "1.2.3.501").replace("RP500", "RP501")))
    assert [p.study_instance_uid for p in order.procedures] == ["1.2.3.500", "1.2.3.501"]


def test_earlier_results_after_a_second_pid_are_not_orders():
    text = hl7(
        msh("OMG^O19^OMG_O19", version="2.5.1"),
        PID,
        orc(),
        obr(),
        PID,
        orc(placer="OLD"),
        obr(accession="OLD"),
    )
    assert the_order(text).accession_number == "A100"


def test_a_message_without_a_control_id_is_refused():
    assert conditions(read(orm(control_id=""))) == [("101", "MSH-10")]


@pytest.mark.parametrize("event", ["A01", "A04", "A08", "A28", "A31", "A10"])
def test_patient_events_update_the_patient(event):
    (request,) = read(hl7(msh(f"ADT^{event}"), "EVN||2026", PID, PV1)).requests
    assert isinstance(request, UpdatePatient)
    assert request.event == event
    assert request.patient.changes["PatientSex"] == "F"


def test_a_merge_names_survivor_and_absorbed_and_may_repeat():
    text = hl7(
        msh("ADT^A40"), "EVN||2026", PID, "MRG|OLD1^^^HOSP", PID.replace("4711", "4712"), "MRG|OLD2^^^HOSP"
    )
    one, two = read(text).requests
    assert isinstance(one, MergePatients)
    assert (one.survivor.identifiers[0].value, one.absorbed.value) == ("4711", "OLD1")
    assert (two.survivor.identifiers[0].value, two.absorbed.value) == ("4712", "OLD2")


def test_a_merge_into_itself_or_without_mrg_is_refused():
    assert conditions(read(hl7(msh("ADT^A40"), PID, "MRG|4711^^^HOSP"))) == [("205", "MRG-1.1")]
    assert conditions(read(hl7(msh("ADT^A40"), PID))) == [("100", "MRG")]
    assert conditions(read(hl7(msh("ADT^A40"), PID, "MRG|"))) == [("101", "MRG-1.1")]


def test_answers_to_our_messages_are_recognised():
    assert read(hl7(msh("ACK^O01"), "MSA|AA|1")).is_response


def test_a_message_with_very_many_orders_is_refused():
    assert not read(orm(*[orc(), obr()] * 100)).refused
    assert conditions(read(orm(*[orc(), obr()] * 101))) == [("207", "ORC")]
    assert conditions(read(omi(*OMI * 51))) == [("207", "ORC")]


@pytest.mark.parametrize(
    "text",
    [
        orm(orc(placer="-" * 60_000), *[obr(placer="", filler="")] * 100),
        orm(orc().replace("|1^", "|" + "\\E\\" * 20_000 + "^"), *[obr()] * 100),
        hl7(msh(), PID, *["AL1|1||" + "~".join(["^a"] * 500)] * 900, orc(), obr()),
        hl7(msh(), PID, orc(), obr(), *["NTE|1||" + "~".join(["b"] * 500)] * 900),
        hl7(msh(), PID, orc(), obr(), *["OBX|1|NM|29463-7||x|kg"] * 900),
    ],
    ids=["long number", "escapes", "allergies", "notes", "observations"],
)
def test_hostile_messages_are_read_in_bounded_time(text):
    started = time.thread_time()
    read(text)
    assert time.thread_time() - started < 2.0


SEGMENTS = st.sampled_from(
    [
        PID,
        PV1,
        orc(),
        orc("XO", ""),
        obr(),
        ZDS,
        *OMI,
        "NTE|1||x",
        "OBX|1|NM|29463-7||70|kg",
        "TQ1|1",
        "ORC",
        "OBR",
        "PID",
        "MRG|1",
        "IPC",
        "ZDS",
    ]
)


@settings(deadline=None)
@given(
    st.sampled_from(["ORM^O01", "OMI^O23", "ADT^A08", "ADT^A40"]), st.lists(SEGMENTS, max_size=12), st.data()
)
def test_any_heap_of_segments_is_read_or_refused_and_never_crashes(kind, segments, data):
    text = hl7(msh(kind), *segments)
    place = data.draw(st.integers(60, len(text)))
    text = text[:place] + data.draw(st.text('|^~&\\"\rA19. é\x00山', max_size=6)) + text[place:]
    mapped = read(text)
    assert not (mapped.refused and mapped.requests)
