"""Values on their way from a message to a request: converted, cleaned, cleared or refused."""

import pytest

from broker.domain.orders import OrderAction
from broker.hl7.converters import surrogate
from tests.unit.hl7.messages import PID, PV1, hl7, msh, obr, orc, orm
from tests.unit.hl7.reading import conditions, read, the_order, the_step


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
