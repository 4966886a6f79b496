"""From message to request: grouping, actions, converters, problems, and the files that say so."""

import time
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.domain.orders import (
    Code,
    EntityIdentifier,
    MergePatients,
    OrderAction,
    PlaceOrders,
    UpdatePatient,
)
from broker.hl7.ack import Header
from broker.hl7.converters import surrogate
from broker.hl7.mapping import MappingSet
from broker.hl7.mapping_file import MappingFileError
from broker.hl7.tokenizer import tokenize
from tests.unit.hl7.messages import PID, PV1, ZDS, hl7, msh, obr, orc, orm

BERLIN = ZoneInfo("Europe/Berlin")
SHIPPED = MappingSet.load(None, site_zone=BERLIN)


def read(text, mappings=SHIPPED):
    message = tokenize(text)
    header = Header.of(message)
    return mappings.for_sender(message.value("MSH-3"), message.value("MSH-4")).read(message, header)


def the_order(text, mappings=SHIPPED):
    mapped = read(text, mappings)
    assert not mapped.refused, [str(problem) for problem in mapped.problems]
    (request,) = mapped.requests
    assert isinstance(request, PlaceOrders)
    (order,) = request.orders
    return order


def the_step(text, mappings=SHIPPED):
    (procedure,) = the_order(text, mappings).procedures
    (step,) = procedure.steps
    return step


def conditions(mapped):
    return [
        (problem.condition, problem.place) for problem in mapped.problems if problem.severity.name == "ERROR"
    ]


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


OMI = (
    "IPC|A500^HOSP|RP500|1.2.3.500|S1|CT|PC1^Chest prot^L|SCAN1^CT ONE|ROOM1|CT1~CT2",
    "IPC|A500^HOSP|RP500|1.2.3.500|S2|MR|||ROOM2|MR1",
)


def omi(*ipc):
    return hl7(
        msh("OMI^O23^OMI_O23", version="2.5.1"), PID, PV1, orc(timing=""), "TQ1|1||||||20261122083000||S^^^",
        obr(accession="", procedure_id="", step_id="", modality=""), *(ipc or OMI),
    )  # fmt: skip


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


def test_notes_belong_to_what_they_follow():
    text = hl7(
        msh(),
        PID,
        "NTE|1||of the patient",
        PV1,
        orc(),
        "NTE|1||of the order",
        obr(),
        "NTE|1||one",
        "NTE|2||two",
    )
    (request,) = read(text).requests
    (order,) = request.orders
    assert request.patient.changes["PatientComments"] == "of the patient"
    assert order.changes["ImagingServiceRequestComments"] == "of the order"
    assert order.procedures[0].changes["RequestedProcedureComments"] == "one\r\ntwo"


def test_a_deleted_value_is_cleared_and_an_absent_one_is_not_mentioned():
    text = orm().replace("|F\r", '|""\r').replace("^RITA", "").replace("7^REFER", '""')
    (request,) = read(text).requests
    assert request.patient.changes["PatientSex"] is None
    assert request.orders[0].changes["ReferringPhysicianName"] is None
    assert "PatientWeight" not in request.patient.changes


@pytest.mark.parametrize("key", ["A100", "RP100", "SP100"])
def test_a_deleted_identifier_counts_as_absent(key):
    order = the_order(orm().replace(f"|{key}", '|""'))
    values = {
        order.accession_number,
        order.procedures[0].requested_procedure_id,
        order.procedures[0].steps[0].scheduled_procedure_step_id,
    }
    assert None in values


@pytest.mark.parametrize(
    ("sent", "date", "time", "unspecified"),
    [
        ("20261121", "20261121", "000000", True),
        ("202611211015", "20261121", "101500", False),
        ("20261121101530.1234", "20261121", "101530", False),
        ("20261121101500+0000", "20261121", "111500", False),
        ("20261121233000-0500", "20261122", "053000", False),
    ],
)
def test_the_start_is_in_the_hospitals_time(sent, date, time, unspecified):
    step = the_step(orm(timing=f"1^^^{sent}"))
    assert step.changes["ScheduledProcedureStepStartDate"] == date
    assert step.changes["ScheduledProcedureStepStartTime"] == time
    assert step.time_unspecified is unspecified


def test_the_zone_of_the_message_holds_for_times_without_one():
    text = orm().replace("20261121093000", "20261121093000-0500")
    assert the_step(text).changes["ScheduledProcedureStepStartTime"] == "160000"


@pytest.mark.parametrize("sent", ["2026", "202613", "20261321", "soon", "20261121250000", "2026-11-21"])
def test_a_start_that_is_no_day_refuses_the_order(sent):
    assert conditions(read(orm(timing=f"1^^^{sent}")))[0] == ("102", "ORC-7.4")


def test_all_problems_of_a_message_are_told_at_once():
    text = orm(orc(timing="1^^^never"), obr(accession="A" * 17), "ZDS|1.02.3").replace("4711", "")
    assert conditions(read(text)) == [
        ("101", "PID-3.1"),
        ("102", "OBR-18.1"),
        ("102", "ZDS-1.1"),
        ("102", "ORC-7.4"),
    ]


@pytest.mark.parametrize("uid", ["1..2", "1.2.", ".1", "1.02", "abc", "1." * 40, "../../etc"])
def test_a_malformed_uid_is_refused(uid):
    assert conditions(read(orm(orc(), obr(), f"ZDS|{uid}"))) == [("102", "ZDS-1.1")]


def test_an_order_without_patient_or_segments_says_which_is_missing():
    assert conditions(read(hl7(msh(), orc(), obr()))) == [("100", "PID")]
    assert conditions(read(hl7(msh(), PID))) == [("100", "ORC")]
    assert conditions(read(hl7(msh(), PID, orc()))) == [("100", "OBR")]
    assert conditions(read(hl7(msh(), PID, obr()))) == [("100", "ORC")]
    assert the_order(hl7(msh(), PID, orc("CA", ""))).action is OrderAction.CANCEL


def test_long_procedure_ids_get_a_short_one_that_is_always_the_same():
    order = the_order(orm(orc(), obr(procedure_id="R" * 20)))
    short = order.procedures[0].requested_procedure_id
    assert short == surrogate("R" * 20, 16)
    assert len(short) == 16
    assert surrogate("R" * 20, 16) != surrogate("R" * 21, 16)


def test_a_patient_id_longer_than_dicom_allows_is_refused():
    assert conditions(read(orm().replace("4711", "9" * 65))) == [("102", "PID-3.1")]


@pytest.mark.parametrize(
    ("sent", "modality"),
    [("CT", "CT"), ("xr", "DX"), ("MAM", "MG"), ("NUC", "NM"), ("USG", "US"), ("RAD", "DX")],
)
def test_modality_codes_are_translated(sent, modality):
    assert the_step(orm(orc(), obr(modality=sent))).changes["Modality"] == modality


def test_an_unknown_modality_is_a_warning_and_not_taken():
    mapped = read(orm(orc(), obr(modality="LAB")))
    assert not mapped.refused
    assert [(p.condition, p.place) for p in mapped.problems] == [("103", "OBR-24")]
    assert "Modality" not in mapped.requests[0].orders[0].procedures[0].steps[0].changes


def test_a_wrong_birth_date_is_a_warning_and_not_taken():
    mapped = read(orm().replace("19700203", "19709903"))
    assert not mapped.refused
    assert "PatientBirthDate" not in mapped.requests[0].patient.changes


def test_a_partial_birth_date_is_left_out_and_never_padded():
    assert "PatientBirthDate" not in read(orm().replace("19700203", "1970")).requests[0].patient.changes


@pytest.mark.parametrize(
    ("value", "unit", "weight"),
    [
        ("70", "kg", "70"),
        ("154.3", "lb", "69.99"),
        ("3500", "g", "3.5"),
        ("70", "", None),
        ("7000", "kg", None),
        ("x", "kg", None),
        ("0", "kg", None),
    ],
)
def test_a_weight_is_taken_only_with_its_unit_and_only_if_plausible(value, unit, weight):
    text = orm(orc(), obr(), f"OBX|1|NM|29463-7^Body weight^LN||{value}|{unit}")
    assert read(text).requests[0].patient.changes.get("PatientWeight") == weight


def test_a_pregnancy_is_read_from_the_ambulatory_status():
    assert read(orm().replace(PV1, PV1 + "")).requests[0].patient.changes.get("PregnancyStatus") is None
    text = orm().replace("RITA|||||||", "RITA|||||||B6", 1)
    assert read(text).requests[0].patient.changes["PregnancyStatus"] == "3"


def test_allergies_are_collected_from_every_segment():
    text = hl7(msh(), PID, "AL1|1||^Iodine", "AL1|2||LATEX", orc(), obr())
    assert read(text).requests[0].patient.changes["Allergies"] == ("Iodine",)


def test_the_side_is_written_before_the_description():
    fields = obr().split("|")
    fields[15] = "^^^^LT"
    order = the_order(orm(orc(), "|".join(fields)))
    assert order.procedures[0].changes["RequestedProcedureDescription"] == "LEFT CT CHEST"


def test_text_is_made_fit_for_dicom():
    text = orm(orc(), obr(service="C1^50\\T\\50 a\\.br\\b C:\\E\\x " + "long words " * 10 + "^L"))
    description = the_order(text).procedures[0].changes["RequestedProcedureDescription"]
    assert description.startswith("50&50 a b C:/x long words")
    assert len(description) <= 64
    assert description.endswith(("long", "words"))


@pytest.mark.parametrize(
    ("pid_5", "name"),
    [
        ("ZZTEST^ANNA", "ZZTEST^ANNA"),
        ("VON TEST&VON&TEST^ANNA", "VON TEST^ANNA"),
        ("ALIAS^A^^^^^A~LEGAL^L^^^^^L", "LEGAL^L"),
        (
            "YAMADA^TAROU^^^^^L^A~山田^太郎^^^^^L^I~やまだ^たろう^^^^^L^P",
            "YAMADA^TAROU=山田^太郎=やまだ^たろう",
        ),
        ("山田^太郎", "=山田^太郎"),
        ("A=B^C\\E\\D", "AB^CD"),
        ("^^^", None),
        ('""', None),
    ],
)
def test_names_are_chosen_and_cleaned(pid_5, name):
    text = orm().replace("ZZTEST^SALLY^Q^JR^DR^PHD", pid_5)
    assert read(text).requests[0].patient.changes.get("PatientName") == name


@pytest.mark.parametrize(
    ("msh_9", "version", "processing", "condition"),
    [
        ("ORU^R01", "2.5", "P", ("200", "MSH-9.1")),
        ("ADT^A99", "2.5", "P", ("201", "MSH-9.2")),
        ("ORM^O01", "2.5", "T", ("202", "MSH-11")),
        ("ORM^O01", "3.0", "P", ("203", "MSH-12")),
        ("ORM^O01", "2.9", "P", ("203", "MSH-12")),
        ("", "2.5", "P", ("101", "MSH-9.1")),
    ],
)
def test_what_is_not_taken_is_refused_with_its_condition(msh_9, version, processing, condition):
    text = orm().replace("ORM^O01^ORM_O01|M1|P|2.3.1", f"{msh_9}|M1|{processing}|{version}")
    assert condition in conditions(read(text))


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


# --- files of a site ---------------------------------------------------------------------------------------


def site(tmp_path: Path, **files: str) -> MappingSet:
    for name, body in files.items():
        (tmp_path / f"{name}.yaml").write_text(body, encoding="utf-8")
    return MappingSet.load(tmp_path, site_zone=BERLIN)


def test_a_site_changes_single_rules_and_keeps_the_rest(tmp_path):
    mappings = site(tmp_path, default="order:\n  AccessionNumber: { from: [ORC-3.1], as: identifier }\n")
    order = the_order(orm(), mappings)
    assert order.accession_number == "F100"
    assert order.changes["RequestingPhysician"] == "REQUEST^RON"


def test_a_sender_gets_its_own_file(tmp_path):
    body = "senders: [{ application: 'RI?' }]\norder_actions:\n  NW: { SC: ignore }\n"
    mappings = site(tmp_path, ris=body)
    assert read(orm(), mappings).ignored
    assert the_order(orm().replace("|RIS|HOSP|", "|HIS|HOSP|"), mappings).action is OrderAction.PLACE


def test_null_takes_a_rule_away(tmp_path):
    mappings = site(tmp_path, default="patient:\n  PatientAddress:\nmodalities: { LAB: OT }\n")
    text = orm(orc(), obr(modality="LAB"))
    assert the_step(text, mappings).changes["Modality"] == "OT"


def test_stations_follow_the_first_rule_that_fits(tmp_path):
    body = (
        "stations:\n"
        "  - { when: { modality: CT, PV1-3.1: 'ER*' }, ae_titles: [CTER], location: ER }\n"
        "  - { when: { modality: [CT, MR], procedure_code: 'CT*' }, ae_titles: [CT1, CT2], names: SCAN }\n"
    )
    mappings = site(tmp_path, default=body)
    assert the_step(orm(), mappings).changes["ScheduledStationAETitle"] == ("CT1", "CT2")
    assert (
        the_step(orm().replace("|RAD^R1", "|ER3^R1"), mappings).changes["ScheduledProcedureStepLocation"]
        == "ER"
    )
    assert "ScheduledStationAETitle" not in the_step(orm(orc(), obr(modality="US")), mappings).changes


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("patient:\n  PatientNam: { from: PID-5 }\n", "2:3: patient.PatientNam: is not a DICOM keyword"),
        ("step:\n  Modality: { from: OBR-24, as: modalty }\n", "2:29: step.Modality.as: is not a converter"),
        ("step:\n  Modality: { from: OBR24 }\n", "2:15: step.Modality.from: OBR24: a field path looks like"),
        ("order_actions:\n  NW: { '': plaice }\n", "plaice is not one of"),
        ("orders: {}\n", "1:1: orders: is not a known key"),
        ("patient: [\n", "default.yaml:2:1: expected the node content"),
        ("- a\n", "must be a mapping"),
        ("reception: { conflict: maybe }\n", "1:14: reception.conflict"),
        ("reception: { character_set: KLINGON }\n", "is not a character set"),
        ("stations: [{ when: { colour: red } }]\n", "a field path looks like"),
        ("stations: [{ ae_titles: [THIS_AE_TITLE_IS_TOO_LONG] }]\n", "an AE title has 1 to 16"),
        ("step:\n  ScheduledProcedureStepBegin: { from: OBR-6, as: date_time }\n", "before Date and Time"),
        ("patient:\n  PatientSex: { as: sex }\n", "needs `from`"),
    ],
)
def test_mistakes_are_told_with_their_place(tmp_path, body, complaint):
    with pytest.raises(MappingFileError) as caught:
        site(tmp_path, default=body)
    assert complaint in str(caught.value)
    assert str(tmp_path / "default.yaml") in str(caught.value)


def test_all_mistakes_of_all_files_are_told_at_once(tmp_path):
    with pytest.raises(MappingFileError) as caught:
        site(
            tmp_path,
            default="patient: { X: { from: PID-1 } }\nstep: { Y: { from: PID-1 } }\n",
            other="order: {}\n",
        )
    assert len(caught.value.problems) == 3


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
    started = time.process_time()
    read(text)
    assert time.process_time() - started < 2.0


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
