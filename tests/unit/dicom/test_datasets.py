import contextlib
import unicodedata
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from broker.dicom.objects.answers import AnswerStyle, AnswerWriter, ReturnKeys, WorklistEncoder
from broker.dicom.objects.datasets import (
    ROOT_ATTRIBUTES,
    SPECIAL,
    SPS_SEQUENCE,
    STEP_ATTRIBUTES,
    STEP_TAGS,
    Return,
    attribute_named,
    element_of,
    values_of,
)
from broker.dicom.objects.elements import (
    Element,
    Limits,
    MalformedDataSet,
    Syntax,
    codecs_of,
    decode,
    read_elements,
    write_element,
    write_elements,
    write_little,
)
from broker.dicom.objects.packing import pack, pack_entry
from broker.domain.orders import Code
from broker.domain.steps import StepStatus
from tests.data_sets import pydicom_reads, pydicom_writes
from tests.worklist_entries import an_entry, with_patient

SYNTAXES = list(Syntax)
ALL_ROOT = tuple(attribute.tag for attribute in ROOT_ATTRIBUTES)
ALL_STEP = tuple(attribute.tag for attribute in STEP_ATTRIBUTES)
EVERYTHING = ReturnKeys(ALL_ROOT, ALL_STEP)


def answer(entry, keys=EVERYTHING, **style):
    style = AnswerStyle(**style)
    return pydicom_reads(AnswerWriter(keys, style).write(WorklistEncoder().encode(entry)), style.syntax)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_an_answer_says_everything_of_an_entry_in_every_transfer_syntax(syntax):
    found = answer(an_entry(7), syntax=syntax)
    assert found.PatientName == "HAYDN^JOSEPH"
    assert found.PatientID == "PID7"
    assert found.IssuerOfPatientID == "HOSP"
    assert list(found.Allergies) == ["NUTS", "IODINE"]
    assert found.PregnancyStatus == 4
    assert found.PatientWeight == pytest.approx(71.5)
    assert found.OtherPatientIDs == "OLD7"
    assert found.OtherPatientIDsSequence[0].PatientID == "OLD7"
    assert found.OtherPatientIDsSequence[0].TypeOfPatientID == "TEXT"
    assert found.AccessionNumber == "A7"
    assert found.IssuerOfAccessionNumberSequence[0].LocalNamespaceEntityID == "HOSP"
    assert found.PlacerOrderNumberImagingServiceRequest == "P7"
    assert found.StudyInstanceUID == "1.2.826.0.1.7"
    assert found.RequestedProcedureCodeSequence[0].CodeMeaning == "CT chest"
    assert len(found.ScheduledProcedureStepSequence) == 1
    step = found.ScheduledProcedureStepSequence[0]
    assert step.ScheduledStationAETitle == "CT1"
    assert step.Modality == "CT"
    assert step.ScheduledProcedureStepStartDate == "20261121"
    assert step.ScheduledProcedureStepStartTime == "093000"
    assert step.ScheduledProcedureStepID == "S7"
    assert step.ScheduledProcedureStepStatus == "SCHEDULED"
    assert [code.CodeValue for code in step.ScheduledProtocolCodeSequence] == ["CTCHC", "X2"]
    assert step.ScheduledProtocolCodeSequence[0].CodingSchemeVersion == "1.0"
    assert found.SpecificCharacterSet == "ISO_IR 100"
    tags = [element.tag for element in found]
    assert tags == sorted(tags)


def test_an_answer_holds_only_what_was_asked():
    found = answer(an_entry(), ReturnKeys((0x00100010, 0x00100020), (0x00400009,)))
    assert [element.keyword for element in found] == [
        "SpecificCharacterSet",
        "PatientName",
        "PatientID",
        "ScheduledProcedureStepSequence",
    ]
    assert [element.keyword for element in found.ScheduledProcedureStepSequence[0]] == [
        "ScheduledProcedureStepID"
    ]


def test_no_step_sequence_is_answered_where_none_was_asked():
    assert SPS_SEQUENCE not in answer(an_entry(), ReturnKeys((0x00100010,)))


def test_a_type_2_attribute_that_is_not_known_is_empty_and_an_unknown_one_is_left_out():
    unknown = (0x00189999, 0x00400441)
    found = answer(an_entry(), ReturnKeys((*ALL_ROOT, *unknown), (*ALL_STEP, *unknown)))
    step = found.ScheduledProcedureStepSequence[0]
    for attributes, data_set in ((ROOT_ATTRIBUTES, found), (STEP_ATTRIBUTES, step)):
        for attribute in attributes:
            if attribute.returned is Return.REQUIRED:
                assert not data_set[attribute.tag].is_empty, attribute.keyword
            elif attribute.returned is Return.EMPTY_IF_UNKNOWN:
                assert attribute.tag in data_set, attribute.keyword
        assert not any(tag in data_set for tag in unknown)
    assert found.PatientState in ("", None)
    assert len(found.ReferencedStudySequence) == 0
    assert step.ScheduledPerformingPhysicianName == ""


def test_attributes_a_mapping_file_adds_are_answered_when_asked():
    entry = an_entry(BodyPartExamined="CHEST", DerivationDescription="FROM A SITE'S OWN MAPPING")
    found = answer(entry, ReturnKeys((0x00180015, 0x00082111), (0x00400009,)))
    assert found.BodyPartExamined == "CHEST"
    assert found.DerivationDescription == "FROM A SITE'S OWN MAPPING"


def test_a_code_is_narrowed_to_what_the_request_spelt_out():
    keys = ReturnKeys((), (0x00400008,), ((0x00400008, (0x00080100, 0x00080102)),))
    step = answer(an_entry(), keys).ScheduledProcedureStepSequence[0]
    assert [element.keyword for element in step.ScheduledProtocolCodeSequence[0]] == [
        "CodeValue",
        "CodingSchemeDesignator",
    ]


def test_a_device_gets_what_it_can_take():
    keys = ReturnKeys((0x00081110, 0x00081120, 0x00100010), ALL_STEP)
    entry = with_patient(an_entry(), name="YAMADA^TARO=山田^太郎")
    found = answer(
        entry,
        keys,
        omit_empty_sequences=True,
        single_code=True,
        alphabetic_only=True,
        character_sets=(("ISO_IR 6",),),
    )
    assert "ReferencedStudySequence" not in found
    assert len(found.ScheduledProcedureStepSequence[0].ScheduledProtocolCodeSequence) == 1
    assert found.PatientName == "YAMADA^TARO"


def test_a_step_discontinued_with_images_is_flagged():
    step = answer(an_entry(status=StepStatus.DISCONTINUED)).ScheduledProcedureStepSequence[0]
    assert step.ScheduledProcedureStepDescription == "DISCONTINUED: CHEST WITH CONTRAST"


# PS3.4 K.4.1.1.3, PS3.3 C.12.1.1.2
@pytest.mark.parametrize(
    ("name", "sets", "unicode_allowed", "expected_set", "expected_name"),
    [
        ("Müller^Eva", (("ISO_IR 100",),), True, "ISO_IR 100", "Müller^Eva"),
        ("Müller^Eva", (("ISO_IR 101",), ("ISO_IR 100",)), True, "ISO_IR 101", "Müller^Eva"),
        ("Иванов^Юрий", (("ISO_IR 100",), ("ISO_IR 144",)), True, "ISO_IR 144", "Иванов^Юрий"),
        ("Иванов^Юрий", (("ISO_IR 100",),), True, "ISO_IR 192", "Иванов^Юрий"),
        ("Иванов^Юрий", (("ISO_IR 100",),), False, "ISO_IR 100", "Ivanov^Iurii"),
        ("Müller^Eva", (("ISO_IR 6",),), False, None, "Mueller^Eva"),
        ("YAMADA^TARO=山田^太郎", (("ISO_IR 100",),), False, "ISO_IR 100", "YAMADA^TARO"),
        ("山田^太郎", (("ISO_IR 100",),), False, "ISO_IR 100", "UNKNOWN"),
        ("Müller^山", (("ISO_IR 100",),), False, "ISO_IR 100", "UNKNOWN"),
        ("王^小东", (("GB18030",),), True, "GB18030", "王^小东"),
        ("Πα^Γ", (("ISO_IR 192",),), True, "ISO_IR 192", "Πα^Γ"),
    ],
)
def test_the_character_set_follows_device_request_default_then_unicode_or_plain_letters(
    name, sets, unicode_allowed, expected_set, expected_name
):
    found = answer(with_patient(an_entry(), name=name), character_sets=sets, unicode_allowed=unicode_allowed)
    assert found.get("SpecificCharacterSet") == expected_set
    assert str(found.PatientName) == expected_name


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize(
    ("terms", "name"),
    [
        (("", "ISO 2022 IR 87"), "YAMADA^TAROU=山田^太郎=やまだ^たろう"),
        (("ISO 2022 IR 13", "ISO 2022 IR 87"), "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),
        (("", "ISO 2022 IR 149"), "HONG^GILDONG=洪^吉洞=홍^길동"),
        (("", "ISO 2022 IR 58"), "ZHANG^XIAODONG=张^小东"),
    ],
)
def test_names_with_code_extensions_read_back_as_they_were(terms, name, syntax):
    found = answer(with_patient(an_entry(), name=name), character_sets=(terms,), syntax=syntax)
    assert list(found.SpecificCharacterSet) == list(terms)
    found.decode()
    # pydicom leaves the designation of ISO 2022 IR 58 in the text.
    assert str(found.PatientName).replace("\x1b$)A", "") == name


def test_an_ascii_answer_can_go_without_a_character_set():
    assert "SpecificCharacterSet" not in answer(an_entry(), always_character_set=False)


@given(
    st.text(max_size=20), st.sampled_from([("ISO_IR 100",), ("ISO_IR 6",), ("ISO_IR 144",)]), st.booleans()
)
def test_no_name_ever_becomes_question_marks(name, terms, unicode_allowed):
    assume("?" not in unicodedata.normalize("NFKD", name))
    packed = WorklistEncoder().encode(with_patient(an_entry(), name="X^" + name))
    style = AnswerStyle(character_sets=(terms,), unicode_allowed=unicode_allowed)
    assert b"?" not in AnswerWriter(ReturnKeys((0x00100010,)), style).write(packed)


# --- the codec against pydicom ---------------------------------------------------------------------------


def a_data_set(**values):
    data_set = Dataset()
    for keyword, value in values.items():
        setattr(data_set, keyword, value)
    return data_set


texts = st.text(
    alphabet=st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="\\"), max_size=16
)
leaves = st.fixed_dictionaries(
    {},
    optional={
        "PatientID": texts,
        "AccessionNumber": texts,
        "StudyInstanceUID": st.sampled_from(["", "1.2.3", "2.25.4"]),
        "PregnancyStatus": st.integers(0, 0xFFFF),
        "SimpleFrameList": st.lists(st.integers(0, 0xFFFFFFFF), max_size=3),
        "SelectorFDValue": st.floats(allow_nan=False, width=64),
        "PatientComments": texts,
        "TextValue": texts,
    },
)


def nested(children):
    return st.builds(
        lambda values, items: {**values, "ScheduledProcedureStepSequence": items},
        leaves,
        st.lists(children, max_size=2),
    )


trees = st.recursive(leaves, nested, max_leaves=6)


def as_data_set(tree):
    data_set = Dataset()
    for keyword, value in tree.items():
        if keyword == "ScheduledProcedureStepSequence":
            data_set.ScheduledProcedureStepSequence = [as_data_set(child) for child in value]
        else:
            setattr(data_set, keyword, value)
    return data_set


@given(trees, st.sampled_from(SYNTAXES))
def test_the_reader_agrees_with_pydicom_and_writes_the_same_bytes_back(tree, syntax):
    data = pydicom_writes(as_data_set(tree), syntax)
    elements = read_elements(data, syntax)
    assert write_elements(elements, syntax) == data
    explicit = write_elements(elements, Syntax.EXPLICIT_LITTLE)
    assert explicit == pydicom_writes(as_data_set(tree), Syntax.EXPLICIT_LITTLE)


@given(trees)
def test_an_element_written_in_both_little_endian_syntaxes_at_once_is_what_pydicom_writes(tree):
    data_set = as_data_set(tree)
    elements = read_elements(pydicom_writes(data_set, Syntax.EXPLICIT_LITTLE), Syntax.EXPLICIT_LITTLE)
    both = [write_little(tag, elements[tag]) for tag in sorted(elements)]
    assert b"".join(explicit for explicit, _ in both) == pydicom_writes(data_set, Syntax.EXPLICIT_LITTLE)
    assert b"".join(implicit for _, implicit in both) == pydicom_writes(data_set, Syntax.IMPLICIT_LITTLE)


@pytest.mark.parametrize("length", [0, 1, 0xFFFD, 0xFFFE, 0xFFFF])
@pytest.mark.parametrize("vr", ["LO", "UI", "UT", "OB", "US"])
def test_an_element_written_at_once_is_padded_and_sized_like_one_written_alone(vr, length):
    element = Element(vr, b"1" * length)
    assert write_little(0x00400031, element) == (
        write_element(0x00400031, element, Syntax.EXPLICIT_LITTLE),
        write_element(0x00400031, element, Syntax.IMPLICIT_LITTLE),
    )


def test_undefined_lengths_are_read():
    item = b"\x10\x00\x20\x00\x04\x00\x00\x00ABCD"
    data = (
        b"\x40\x00\x00\x01\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
        + item
        + b"\xfe\xff\x0d\xe0\x00\x00\x00\x00\xfe\xff\xdd\xe0\x00\x00\x00\x00"
        + b"\x40\x00\x01\x10\x00\x00\x00\x00"
    )
    elements = read_elements(data, Syntax.IMPLICIT_LITTLE)
    assert elements[0x00400100].items == ({0x00100020: Element("LO", b"ABCD")},)
    assert elements[0x00401001] == Element("SH", b"")


def test_a_sequence_of_unknown_vr_is_read_as_implicit():  # PS3.5 6.2.2 note 2
    item = b"\x10\x00\x20\x00\x04\x00\x00\x00ABCD"
    data = (
        b"\x40\x00\x00\x01UN\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0"
        + len(item).to_bytes(4, "little")
        + item
        + b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"
    )
    assert read_elements(data, Syntax.EXPLICIT_LITTLE)[0x00400100].items == (
        {0x00100020: Element("LO", b"ABCD")},
    )


def nested_items(depth):
    data = b""
    for _ in range(depth):
        item = b"\xfe\xff\x00\xe0" + len(data).to_bytes(4, "little") + data
        data = b"\x40\x00\x00\x01" + len(item).to_bytes(4, "little") + item
    return data


def test_depth_number_and_size_are_bounded():
    read_elements(nested_items(32), Syntax.IMPLICIT_LITTLE)
    with pytest.raises(MalformedDataSet, match="deeper"):
        read_elements(nested_items(33), Syntax.IMPLICIT_LITTLE)
    many = b"".join(b"\x10\x00" + n.to_bytes(2, "little") + b"\x00\x00\x00\x00" for n in range(11))
    with pytest.raises(MalformedDataSet, match="more than 10"):
        read_elements(many, Syntax.IMPLICIT_LITTLE, Limits(elements=10))
    with pytest.raises(MalformedDataSet, match="larger"):
        read_elements(bytes(11), Syntax.IMPLICIT_LITTLE, Limits(data_set_bytes=10))


@given(st.binary(max_size=200), st.sampled_from(SYNTAXES))
def test_no_bytes_make_the_reader_fail_otherwise(data, syntax):
    with contextlib.suppress(MalformedDataSet):
        read_elements(data, syntax)


@given(trees, st.sampled_from(SYNTAXES), st.data())
def test_no_damaged_data_set_makes_the_reader_fail_otherwise(tree, syntax, data):
    encoded = bytearray(pydicom_writes(as_data_set(tree), syntax))
    if encoded:
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(MalformedDataSet):
        read_elements(bytes(encoded), syntax)


@pytest.mark.parametrize(
    ("value", "terms", "expected"),
    [
        (b"M\xfcller", (), "Müller"),
        (b"M\xc3\xbcller", ("ISO_IR 192",), "Müller"),
        (b"\xb8\xd2", ("ISO_IR 144",), "Ив"),
        (b"M\xfcller", ("NO SUCH SET",), "Müller"),
        (b"M\xfcller", ("ISO_IR 192",), "M\ufffdller"),
        (b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", ("", "ISO 2022 IR 87"), "Yamada^Tarou=山田^太郎"),
        (b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", (), "Yamada^Tarou=山田^太郎"),
    ],
)
def test_text_is_read_in_the_character_set_it_says_or_most_likely_has(value, terms, expected):
    assert decode(value, "PN", codecs_of(terms)) == expected


_KEYWORDS = st.sampled_from([attribute.keyword for attribute in (*ROOT_ATTRIBUTES, *STEP_ATTRIBUTES)])
_TEXTS = st.one_of(
    st.sampled_from(
        ["", " ", "\\", "1", "65536", "CT\\MR", " two\nlines ", "x" * 65534, "x" * 65535, "MÜLLER^JÖRG"]
    ),
    st.text(alphabet=st.characters(codec="utf-8"), max_size=40),
)
_VALUES = st.one_of(
    _TEXTS,
    st.lists(_TEXTS, max_size=3).map(tuple),
    st.lists(st.builds(Code, _TEXTS, _TEXTS, _TEXTS, st.one_of(st.none(), _TEXTS)), max_size=2).map(tuple),
)
_ATTRIBUTES = st.dictionaries(st.one_of(_KEYWORDS, st.just("OtherPatientIDs")), _VALUES, max_size=8)


@given(patient=_ATTRIBUTES, order=_ATTRIBUTES, step=_ATTRIBUTES, status=st.sampled_from(StepStatus))
def test_an_entry_is_packed_as_its_elements_are(patient, order, step, status):
    entry = an_entry(3)
    entry = replace(
        entry,
        patient=replace(entry.patient, attributes=patient),
        order=replace(entry.order, attributes=order),
        step=replace(entry.step, attributes=step, status=status),
    )
    elements = {}
    for keyword, value in values_of(entry).items():
        attribute = attribute_named(keyword)
        elements[attribute.tag] = element_of(attribute, value)
    elements = {tag: element for tag, element in elements.items() if element is not None}
    root = {tag: element for tag, element in elements.items() if tag not in STEP_TAGS}
    root |= {tag: element for tag, special in SPECIAL.items() if (element := special(entry)) is not None}
    step_item = {tag: element for tag, element in elements.items() if tag in STEP_TAGS}
    assert pack_entry(entry) == pack(root, step_item)
