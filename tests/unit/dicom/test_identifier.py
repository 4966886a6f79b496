import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from broker.dicom.objects.datasets import STEP_ATTRIBUTES
from broker.dicom.objects.elements import MalformedDataSet, Syntax
from broker.dicom.objects.identifier import IdentifierRefused, read_identifier
from broker.domain.devices import DeviceProfile
from broker.domain.matching import Key, StepView, matches
from broker.domain.orders import Code
from broker.domain.steps import StepStatus
from tests.data_sets import pydicom_writes

# These dialects break the standard, which is why they are here.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

STRICT = DeviceProfile(is_strict=True)
WHOLE_STEP = tuple(sorted(attribute.tag for attribute in STEP_ATTRIBUTES))
IMPLICIT = Syntax.IMPLICIT_LITTLE


def item(**values):
    data_set = Dataset()
    for keyword, value in values.items():
        setattr(data_set, keyword, value)
    return data_set


def ask(root=None, step=None, *, syntax=IMPLICIT, device=None, calling="CT1", **roots):
    data_set = item(**(root or {}), **roots)
    if step is not None:
        data_set.ScheduledProcedureStepSequence = [
            item(**one) for one in ([step] if isinstance(step, dict) else step)
        ]
    return read_identifier(
        pydicom_writes(data_set, syntax), syntax, device=device or DeviceProfile(), calling_ae_title=calling
    )


def finds(identifier, **stored):
    values = {Key[name]: (value,) if isinstance(value, str) else value for name, value in stored.items()}
    return matches(identifier.query, StepView(values))


@pytest.mark.parametrize("syntax", list(Syntax))
def test_the_typical_query_is_understood_in_every_transfer_syntax(syntax):
    identifier = ask(
        {"PatientName": "", "PatientID": "", "StudyInstanceUID": ""},
        {"ScheduledStationAETitle": "CT1", "ScheduledProcedureStepStartDate": "20261121", "Modality": "CT"},
        syntax=syntax,
    )
    assert identifier.keys.root == (0x00100010, 0x00100020, 0x0020000D)
    assert identifier.keys.step == (0x00080060, 0x00400001, 0x00400002)
    assert {criterion.key for criterion in identifier.query.criteria if hasattr(criterion, "key")} == {
        Key.STATION_AE_TITLE,
        Key.MODALITY,
    }
    assert finds(identifier, STATION_AE_TITLE="CT1", MODALITY="CT", START_DATE="20261121")
    assert not finds(identifier, STATION_AE_TITLE="CT1", MODALITY="CT", START_DATE="20261122")
    assert not identifier.has_unsupported_keys


def test_group_lengths_private_elements_and_the_character_set_are_never_returned():
    data = (
        b"\x08\x00\x00\x00\x04\x00\x00\x00\x10\x00\x00\x00"
        b"\x08\x00\x05\x00\x0a\x00\x00\x00ISO_IR 192"
        b"\x08\x00\x52\x00\x06\x00\x00\x00STUDY "
        b"\x09\x00\x10\x00\x04\x00\x00\x00ACME"
        b"\x10\x00\x20\x00\x00\x00\x00\x00"
    )
    identifier = read_identifier(data, IMPLICIT)
    assert identifier.keys.root == (0x00100020,)
    assert identifier.character_set == ("ISO_IR 192",)


@pytest.mark.parametrize("step", [[], [{}]])
def test_an_empty_step_sequence_asks_for_the_whole_step(step):
    assert ask({"PatientName": ""}, step).keys.step == WHOLE_STEP


def test_without_step_sequence_none_is_answered_unless_the_device_reads_one():
    assert ask({"PatientName": ""}).keys.step is None
    assert ask({"PatientName": ""}, device=DeviceProfile(adds_step_item=True)).keys.step == WHOLE_STEP


def test_more_than_one_item_is_read_where_lenient_and_refused_where_strict():
    items = [{}, {"Modality": "CT"}]
    assert finds(ask(step=items), MODALITY="CT")
    with pytest.raises(IdentifierRefused) as refused:
        ask(step=items, device=STRICT)
    assert refused.value.elements == (0x00400100,)
    assert refused.value.dimse_status == 0xA900


def test_step_keys_at_the_root_are_matched_and_answered_in_both_places():
    identifier = ask(Modality="CT", ScheduledProcedureStepStartDate="20261121")
    assert finds(identifier, MODALITY="CT", START_DATE="20261121")
    assert not finds(identifier, MODALITY="MR", START_DATE="20261121")
    assert identifier.keys.root == identifier.keys.step == (0x00080060, 0x00400002)


def test_a_key_in_the_item_wins_over_the_same_at_the_root():
    identifier = ask({"Modality": "MR"}, {"Modality": "CT"})
    assert finds(identifier, MODALITY="CT")
    assert not finds(identifier, MODALITY="MR")


def test_a_level_of_query_retrieve_is_ignored_or_refused():
    assert ask(QueryRetrieveLevel="STUDY", PatientID="1").keys.root == (0x00100020,)
    with pytest.raises(IdentifierRefused):
        ask(QueryRetrieveLevel="STUDY", device=STRICT)


@pytest.mark.parametrize(
    ("step", "stored", "expected"),
    [
        ({"Modality": "ct"}, {"MODALITY": "CT"}, True),
        ({"Modality": ["CR", "DX"]}, {"MODALITY": "DX"}, True),
        ({"Modality": "CT,MR"}, {"MODALITY": "MR"}, True),
        ({"Modality": "*"}, {"MODALITY": "US"}, True),
        ({"Modality": "ALL"}, {"MODALITY": "US"}, True),
        ({"ScheduledStationAETitle": "ANY"}, {"STATION_AE_TITLE": "X"}, True),
        ({"ScheduledStationAETitle": "CT1 "}, {"STATION_AE_TITLE": "CT1"}, True),
        ({"ScheduledStationAETitle": "ct1"}, {"STATION_AE_TITLE": ("CT9", "CT1")}, True),
        ({"ScheduledPerformingPhysicianName": "SMITH*"}, {"PERFORMING_PHYSICIAN": "Smith^Ann"}, True),
    ],
)
def test_dialects_of_step_keys_are_understood(step, stored, expected):
    assert finds(ask(step=step), **stored) is expected


@pytest.mark.parametrize(
    "text",
    [
        "2026.11.21",
        "2026-11-21",
        "2026/11/21",
        "20261121 - 20261122",
        "*",
        "-",
        "00000000-99999999",
        "20261121101010",
    ],
)
def test_dialects_of_dates_are_understood(text):
    data = b"\x40\x00\x02\x00" + len(text + " " * (len(text) % 2)).to_bytes(4, "little") + text.encode()
    identifier = read_identifier(data + b" " * (len(text) % 2), IMPLICIT)
    assert finds(identifier, START_DATE="20261121")


def test_a_date_that_is_none_is_ignored_and_said_or_refused():
    data = b"\x40\x00\x02\x00\x08\x00\x00\x00tomorrow"
    identifier = read_identifier(data, IMPLICIT)
    assert identifier.query.criteria == ()
    assert identifier.query.ignored == ("ScheduledProcedureStepStartDate: not a date or a range of dates",)
    with pytest.raises(IdentifierRefused) as refused:
        read_identifier(data, IMPLICIT, device=STRICT)
    assert refused.value.elements == (0x00400002,)


@pytest.mark.parametrize("text", ["DOE", "DOE*", "DOE, JOHN", "doe^john", "*DOE*", "DOE^JOHN"])
def test_dialects_of_names_are_understood(text):
    assert finds(ask(PatientName=text), PATIENT_NAME="DOE^JOHN^M")


@pytest.mark.parametrize(
    ("keys", "stored"),
    [
        ({"PatientID": '"123"'}, {"PATIENT_ID": "123"}),
        ({"PatientID": "12*"}, {"PATIENT_ID": "123"}),
        ({"AccessionNumber": "A1\x00"}, {"ACCESSION_NUMBER": "A1"}),
        ({"IssuerOfPatientID": ""}, {}),
        ({"StudyInstanceUID": ["1.2.3", "1.2.4"]}, {"STUDY_INSTANCE_UID": "1.2.4"}),
        ({"PatientBirthDate": "19700101-"}, {"BIRTH_DATE": "19800101"}),
        ({"PatientSex": "f"}, {"SEX": "F"}),
    ],
)
def test_identifying_keys_are_understood(keys, stored):
    assert finds(ask(keys), **stored)


def test_the_calling_device_is_the_station_where_its_profile_says_so():
    device = DeviceProfile(uses_calling_ae_title=True)
    identifier = ask(step={"ScheduledStationAETitle": "ROOM 1"}, device=device, calling="CT7")
    assert finds(identifier, STATION_AE_TITLE="CT7")
    assert not finds(identifier, STATION_AE_TITLE="ROOM 1")


def test_statuses_are_taken_as_a_list_and_a_held_step_is_never_meant():
    def statuses(text):
        return ask(step={"ScheduledProcedureStepStatus": text}).query.statuses

    assert statuses("") is None
    assert statuses(["scheduled", "STARTED"]) == {StepStatus.SCHEDULED, StepStatus.STARTED}
    assert statuses("HELD") == frozenset()
    assert statuses("CAN*") == {StepStatus.CANCELED}


def test_a_code_is_matched_and_narrowed_to_what_was_asked():
    code = item(CodeValue="CTCH", CodeMeaning="")
    identifier = ask(RequestedProcedureCodeSequence=[code])
    assert matches(identifier.query, StepView({}, {Key.RP_CODE: (Code("CTCH", "99", "x"),)}))
    assert not matches(identifier.query, StepView({}, {Key.RP_CODE: (Code("OTHER", "99", "x"),)}))
    assert identifier.keys.items == ((0x00321064, (0x00080100, 0x00080104, 0x00080119, 0x00080120)),)
    whole = ask(RequestedProcedureCodeSequence=[Dataset()])
    assert whole.query.criteria == ()
    assert whole.keys.items == ()


def test_a_key_we_do_not_know_is_ignored_for_matching_and_remembered():
    identifier = ask(PatientID="1", DerivationDescription="x")
    assert identifier.has_unsupported_keys
    assert identifier.query.ignored == ("(0008,2111): not a matching key",)
    assert 0x00082111 in identifier.keys.root


def test_bytes_above_ascii_are_read_in_the_set_they_name_or_the_device_has():
    name = "Müller".encode("iso8859_1")
    data = b"\x10\x00\x10\x00" + len(name).to_bytes(4, "little") + name
    assert finds(read_identifier(data, IMPLICIT), PATIENT_NAME="MULLER^EVA")
    cyrillic = "Иван".encode("iso8859_5")
    data = b"\x10\x00\x10\x00" + len(cyrillic).to_bytes(4, "little") + cyrillic
    russian = DeviceProfile(character_set=("ISO_IR 144",))
    assert finds(read_identifier(data, IMPLICIT, device=russian), PATIENT_NAME="Иван^Иван")


def test_what_is_no_sequence_is_refused():
    with pytest.raises(IdentifierRefused):
        read_identifier(b"\x40\x00\x00\x01LO\x02\x00CT", Syntax.EXPLICIT_LITTLE)


@given(st.binary(max_size=120), st.sampled_from(list(Syntax)), st.booleans())
def test_no_bytes_make_the_reader_fail_otherwise(data, syntax, strict):
    with contextlib.suppress(IdentifierRefused, MalformedDataSet):
        read_identifier(data, syntax, device=STRICT if strict else DeviceProfile())


@given(
    st.sampled_from([key for key in Key if not key.value.endswith("Sequence")]),
    st.text(max_size=40).map(lambda text: text.encode("utf-8", "ignore")),
)
def test_no_key_value_makes_the_reader_fail_otherwise(key, value):
    tag = tag_for_keyword(key.value)
    value += b" " * (len(value) % 2)
    data = (tag >> 16).to_bytes(2, "little") + (tag & 0xFFFF).to_bytes(2, "little")
    identifier = read_identifier(data + len(value).to_bytes(4, "little") + value, IMPLICIT)
    matches(identifier.query, StepView({key: ("X",)}))


@pytest.mark.parametrize(
    "keys",
    [
        {"PatientName": "\u0301\u0323" * 50_000},
        {"PatientName": "A*" * 50_000},
        {"ScheduledProcedureStepStartDate": "20261121" * 5_000},
        {"ScheduledProcedureStepDescription": "x" * 100_000},
        {"StudyInstanceUID": "\\".join(["1.2.3"] * 20_000)},
        {"AccessionNumber": "\\".join(f"A{n}*" for n in range(200))},
        {"RequestedProcedureCodeSequence": [item(CodeValue="\\".join(f"C{n}?" for n in range(200)))]},
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_key_that_no_value_can_equal_and_every_entry_would_be_tried_on_is_refused(keys):
    with pytest.raises(IdentifierRefused) as refused:
        ask(**{"SpecificCharacterSet": "ISO_IR 192", **keys})
    assert refused.value.elements == (tag_for_keyword(next(iter(keys))),)


def test_a_list_of_a_thousand_studies_is_taken():
    uids = [f"1.2.826.0.1.3680043.10.1.{n}" for n in range(1_000)]
    identifier = ask(StudyInstanceUID=uids)
    assert finds(identifier, STUDY_INSTANCE_UID=uids[-1])


def test_an_identifier_with_more_keys_than_any_device_wants_is_refused():
    data = b"".join(struct.pack("<HHI", 0x4010 + 2 * (n // 200), n % 200 + 1, 0) for n in range(600))
    with pytest.raises(IdentifierRefused):
        read_identifier(data, IMPLICIT)
