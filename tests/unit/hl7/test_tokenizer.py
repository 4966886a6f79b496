"""The tokenizer: declared separators, escapes, bounds, and agreement with two other parsers."""

import time
import unicodedata

import hl7
import pytest
from hl7apy.parser import parse_message
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.errors import InvalidValue
from broker.hl7.tokenizer import (
    NULL,
    Limits,
    MessageTooComplexError,
    NoHeaderError,
    Path,
    Separators,
    read_separators,
    tokenize,
)

MSH = "MSH|^~\\&|RIS|HOSP|BROKER|HOSP|20261121093000||ORM^O01|1|P|2.5.1\r"


def value(field, path="OBX-5"):
    return tokenize(f"{MSH}OBX|1|ST|X||{field}\r").value(path)


def test_fields_components_and_subcomponents_are_found_by_path():
    message = tokenize(MSH + "PID|1||123^^^HOSP&1.2.3&ISO^MR~456^^^NAT||Doe^Jane\r")
    assert message.value("PID-3.1") == "123"
    assert message.value("PID-3.4.2") == "1.2.3"
    assert message.value("PID-3[2].4") == "NAT"
    assert message.value("PID-3[3].1") == ""
    assert message.value("PID-5") == "Doe^Jane"
    assert message.value("PID-99.9.9") == ""
    assert message.value("ZZZ-1") == ""


def test_header_fields_count_from_the_separator():
    message = tokenize(MSH)
    assert (message.value("MSH-1"), message.value("MSH-2"), message.value("MSH-3")) == ("|", "^~\\&", "RIS")
    assert message.value("MSH-9.2") == "O01"


def test_the_separators_a_message_declares_are_used():
    message = tokenize("MSH#@!/%#RIS#HOSP\rPID#1##7@@@A%B!8\rOBX#a/F/b|^~\\&\r")
    assert message.separators == Separators("#", "@", "!", "/", "%")
    assert message.value("PID-3.4.2") == "B"
    assert message.value("PID-3[2].1") == "8"
    assert message.value("OBX-1") == "a#b|^~\\&"


def test_a_truncation_character_separates_nothing():
    assert tokenize("MSH|^~\\&#|RIS\rPID|1|#1\r").value("PID-2") == "#1"


@pytest.mark.parametrize(
    "header", ["MSH", "PID|1", "", "MSHA^~\\&AX", "MSH|^^\\&|x", "MSH|^~|&|x|^", "msh|^~\\&|"]
)
def test_a_message_without_a_usable_header_is_refused(header):
    if header == "MSH|^~|&|x|^":
        assert read_separators(header).escape == ""
        return
    with pytest.raises(NoHeaderError):
        tokenize(header)


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
def test_every_line_end_ends_a_segment(end):
    message = tokenize(MSH.replace("\r", end) + f"PID|1{end}ORC|NW{end}")
    assert [segment.name for segment in message.segments] == ["MSH", "PID", "ORC"]


def test_segments_are_numbered_within_their_name():
    message = tokenize(MSH + "OBR|1\rNTE|1\rOBR|2\r\r  \rOBR|3")
    assert [segment.occurrence for segment in message.all("OBR")] == [1, 2, 3]


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        (r"a\F\b\S\c\T\d\R\e\E\f", "a|b^c&d~e\\f"),
        (r"line\.br\two", "line\ntwo"),
        (r"a\.sp2\b\.in+4\c\.ce\d", "a\nbc\nd"),
        (r"\H\bold\N\ plain", "bold plain"),
        (r"\X4D\\XC3BC\ller", "Müller"),
        (r"\XC3\\XBC\ spread", "ü spread"),
        (r"a\X0D0A\b\X0D\c\X0A\d", "a\nb\nc\nd"),
        (r"\Zlocal\x", "x"),
        (r"C:\dose\report", r"C:\dose\report"),
        ("unterminated \\", "unterminated \\"),
        (r"\X4\ \XGG\ \X\ ", r"\X4\ \XGG\ \X" + "\\"),
        (r"\\", r"\\"),
        (r"\.brx\ ", r"\.brx" + "\\"),
    ],
)
def test_escapes_are_resolved_and_what_is_none_stays(sent, meant):
    assert value(sent) == meant


def test_escaped_separators_separate_nothing():
    assert value(r"A\S\B^C\T\D&E", "OBX-5.1") == "A^B"
    assert value(r"A\S\B^C\T\D&E", "OBX-5.2.1") == "C&D"


def test_an_unescaped_ampersand_in_plain_text_is_kept():
    assert value("HEAD & NECK^x", "OBX-5.1") == "HEAD & NECK"


def test_a_single_byte_switch_reads_what_follows_in_the_other_set():
    text = "\\C2D42\\" + "Wałęsa".encode("iso8859_2").decode("iso8859_1") + "\\C2842\\ x"
    message = tokenize(f"{MSH}NTE|{text}\r", codec="iso8859_1")
    assert message.value("NTE-1") == "Wałęsa x"


def test_hexadecimal_escapes_are_read_in_the_character_set_of_the_message():
    assert tokenize(f"{MSH}NTE|\\XB1B3\\\r", codec="gb18030").value("NTE-1") == b"\xb1\xb3".decode("gb18030")


def test_characters_are_composed():
    assert value("Mu\u0308ller") == "Müller"


@pytest.mark.parametrize(
    "text",
    [
        "PID",
        "PID-",
        "PID-0",
        "PID-3.0",
        "PID-3.1.1.1",
        "pid-3",
        "PIDX-3",
        "PID-3[0]",
        "PID-3[1",
        "PID-x",
        "-3",
    ],
)
def test_a_malformed_path_is_refused(text):
    with pytest.raises(InvalidValue):
        Path.parse(text)


@pytest.mark.parametrize("text", ["PID-3", "PID-3.4", "PID-3[2].4.1", "ZDS-1"])
def test_a_path_is_written_as_it_was_read(text):
    assert str(Path.parse(text)) == text


def test_segments_repetitions_and_fields_are_bounded():
    limits = Limits(max_segments=10, max_repetitions=5, max_field_characters=100)
    assert len(tokenize(MSH + "NTE|1\r" * 9, limits=limits).segments) == 10
    with pytest.raises(MessageTooComplexError):
        tokenize(MSH + "NTE|1\r" * 10, limits=limits)
    message = tokenize(MSH + "PID|1||" + "~".join("12345") + "\rPV1|" + "x" * 101 + "|ok\r", limits=limits)
    assert len(message.first("PID").repetitions(3)) == 5
    with pytest.raises(MessageTooComplexError):
        tokenize(MSH + "PID|1||" + "~".join("123456") + "\r", limits=limits).value("PID-3.1")
    # An oversized field harms only who reads it: a report in OBX-5 does not refuse the order around it.
    assert message.value("PV1-2") == "ok"
    with pytest.raises(MessageTooComplexError) as caught:
        message.value("PV1-1")
    assert caught.value.field == "PV1-1"


def test_a_segment_of_separators_costs_no_memory_per_separator():
    message = tokenize(MSH + "OBX|" + "|" * 1_000_000 + "\r")
    message.value("OBX-5")
    assert len(message.segments[1]._fields) <= 514


@pytest.mark.parametrize(
    "field",
    [
        "~" * 60_000,
        "^" * 60_000,
        "&" * 60_000,
        "\\" * 60_000,
        "\\X" * 30_000,
        "\\E\\" * 20_000,
        "\\X41\\" * 12_000,
    ],
)
def test_hostile_fields_are_read_in_linear_time(field):
    message = tokenize(f"{MSH}PID|1||{field}\r")
    started = time.thread_time()
    for _ in range(5):
        try:
            message.value("PID-3")
            message.value("PID-3[400].100.3")
        except MessageTooComplexError:
            pass
    assert time.thread_time() - started < 1.0


@pytest.mark.timeout(30)
@pytest.mark.parametrize("marks", ["\u0301\u0323", "\u0f73", "\u0f73\u0f75\u0f81"])
def test_marks_without_end_are_left_as_they_are_in_linear_time(marks):
    field = marks * (60_000 // len(marks))
    message = tokenize(f"{MSH}PID|{'|'.join(['E' + field] * 100)}\r")
    assert all(message.value(f"PID-{number}") == "E" + field for number in range(1, 100))


def test_as_many_marks_as_any_script_writes_are_composed():
    text = "e\u0301" + "q\u0323\u0307" * 200 + "a\u0323\u0302" * 40
    assert tokenize(f"{MSH}PID|{text}\r").value("PID-1") == unicodedata.normalize("NFC", text)


def test_a_segment_never_shows_its_content():
    assert "Doe" not in repr(tokenize(MSH + "PID|1||7||Doe^Jane\r").segments[1])


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\x00\ufeff"), max_size=60)


@given(st.text(max_size=300))
def test_tokenizing_is_total(text):
    try:
        message = tokenize("MSH|^~\\&|" + text)
    except MessageTooComplexError:
        return
    for segment in message.segments:
        for number in range(6):
            segment.value(number, 1, 1)
            for repetition in segment.repetitions(number):
                for component in segment.components(repetition):
                    segment.subcomponents(component)


def escaped(text):
    table = {"|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\", "\\": "\\E\\"}
    return "".join(table.get(character, character) for character in text)


@given(st.lists(TEXT, min_size=1, max_size=6))
def test_what_was_escaped_comes_back(texts):
    message = tokenize(MSH + "OBX|" + "^".join(map(escaped, texts)) + "\r")
    for place, text in enumerate(texts, start=1):
        assert message.value(f"OBX-1.{place}") == unicodedata.normalize("NFC", text).strip(" ")


PLAIN = st.text("abcXYZ019 .-", max_size=8).map(str.strip)
FIELD = st.lists(st.lists(PLAIN, min_size=1, max_size=4).map("^".join), min_size=1, max_size=3).map("~".join)


@settings(deadline=None)
@given(st.lists(st.lists(FIELD, min_size=1, max_size=6), min_size=1, max_size=4))
def test_the_hl7_package_reads_the_same_values(segments):
    text = MSH + "".join("ZZ1|" + "|".join(fields) + "\r" for fields in segments)
    ours = tokenize(text).all("ZZ1")
    theirs = hl7.parse(text).segments("ZZ1")
    assert len(ours) == len(theirs)
    for mine, other, fields in zip(ours, theirs, segments, strict=True):
        for number, field in enumerate(fields, start=1):
            for repetition, parts in enumerate(field.split("~"), start=1):
                for component in range(1, len(parts.split("^")) + 1):
                    expected = str(other[number]) if "^" not in field and "~" not in field else None
                    if expected is None:
                        cell = other[number][repetition - 1]
                        expected = str(cell if isinstance(cell, str) else cell[component - 1])
                    assert mine.value(number, component, repetition=repetition) == expected


ORDER = (
    "MSH|^~\\&|RIS|HOSP|BROKER|HOSP|20261121093000||ORM^O01^ORM_O01|77|P|2.3.1\r"
    "PID|1||4711^^^HOSP^MR||Sample^Sally^Q||19700203|F\r"
    "PV1|1|O|RAD^R1^B2\r"
    "ORC|NW|P100^RIS|F100^RIS||SC||1^^^202611211000^^R\r"
    "OBR|1|P100^RIS|F100^RIS|CTCH^CT Chest^L||||||||||||||A100|RP100|SP100||||CT|||1^^^202611211000^^R\r"
)


@pytest.mark.parametrize(
    "path",
    [
        "PID-3.1",
        "PID-3.4",
        "PID-5.1",
        "PID-5.2",
        "PID-7",
        "PV1-3.2",
        "ORC-2.1",
        "ORC-7.4",
        "OBR-4.2",
        "OBR-18",
        "OBR-24",
        "OBR-27.6",
    ],
)
def test_hl7apy_reads_the_same_values(path):
    parsed = parse_message(ORDER, find_groups=False)
    field = Path.parse(path)
    segment = next(child for child in parsed.children if child.name == field.segment)
    encoded = next(
        child for child in segment.children if child.name == f"{field.segment}_{field.field}"
    ).to_er7()
    expected = encoded.split("^")[field.component - 1] if field.component else encoded
    assert tokenize(ORDER).value(path) == expected


@given(
    st.lists(st.sampled_from(['""', '"', "^", "~", "&", "\\X2222\\", "\\T\\", " ", "A"]), max_size=6).map(
        "".join
    ),
    st.integers(1, 3),
    st.integers(0, 3),
)
def test_a_value_is_deleted_exactly_when_it_reads_as_the_null_value(field, repetition, component):
    segment = tokenize(f"{MSH}OBX|1|ST|X||{field}\r").first("OBX")
    path = Path("OBX", 5, repetition, component)
    expected = field == NULL or (component > 0 and segment.at(path) == NULL)
    assert segment.nulls(path, segment.field(5)) == expected


@given(st.lists(st.sampled_from(["A", "~", "^", "&", "\\T\\", " "]), max_size=8).map("".join))
def test_the_values_of_a_field_are_those_of_its_repetitions_one_by_one(field):
    segment = tokenize(f"{MSH}OBX|1|ST|X||{field}\r").first("OBX")
    for component in range(3):
        values = segment.values(5, component)
        assert values == [segment.value(5, component, repetition=n + 1) for n in range(len(values))]
        assert segment.value(5, component, repetition=len(values) + 1) == ""
