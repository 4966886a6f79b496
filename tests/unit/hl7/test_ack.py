"""Acknowledgements in original and enhanced mode, and ERR before and since v2.5."""

from datetime import UTC, datetime

import pytest
from hl7apy.parser import parse_message

from broker.hl7.ack import Header, Problem, Severity, Verdict, acknowledgements, build_ack, verdict_of
from broker.hl7.charsets import LATIN_1, UTF_8
from broker.hl7.tokenizer import Path, tokenize

NOW = datetime(2026, 11, 21, 9, 30, 0, tzinfo=UTC)


def header(version="2.5.1", accept="", application="", msh9="ORM^O01^ORM_O01", charset="", control_id="C-1"):
    return Header.of(
        tokenize(
            f"MSH|^~\\&|RIS|HOSP|BROKER|RAD|20261121||{msh9}|{control_id}|P|{version}|||{accept}|{application}||{charset}\r"
        )
    )


def lines(ack):
    return ack.decode("utf-8").split("\r")


def written(head, code="AA", **kwargs):
    return build_ack(head, code, control_id="B1", now=NOW, charset=kwargs.pop("charset", UTF_8), **kwargs)


MISSING = Problem("101", "a patient id is needed", Path("PID", 3, 1, 1))


def test_an_acknowledgement_goes_back_to_its_sender():
    ack = lines(written(header()))
    assert ack == [
        "MSH|^~\\&|BROKER|RAD|RIS|HOSP|20261121093000+0000||ACK^O01^ACK|B1|P|2.5.1",
        "MSA|AA|C-1",
        "",
    ]


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("2.2", "ACK"),
        ("2.3", "ACK^O01"),
        ("2.3.1", "ACK^O01"),
        ("2.4", "ACK^O01^ACK"),
        ("2.8", "ACK^O01^ACK"),
        ("", "ACK^O01^ACK"),
    ],
)
def test_the_message_type_follows_the_version(version, expected):
    assert lines(written(header(version)))[0].split("|")[8] == expected


def test_the_control_id_is_echoed_as_it_came():
    assert lines(written(header(control_id="A\\T\\B^7")))[1] == "MSA|AA|A\\T\\B^7"


def test_separators_of_the_sender_are_used():
    head = Header.of(tokenize("MSH#@!/%#RIS#HOSP#B#R#2026##ADT@A08#7#P#2.4\r"))
    ack = written(head, "AE", problems=[Problem("101", "50% of | and # missing", Path("PID", 3))])
    assert lines(ack)[0].startswith("MSH#@!/%#B#R#RIS#HOSP#")
    assert tokenize(ack.decode()).value("MSA-3").startswith("101 PID-3: 50% of | and # missing")


def test_errors_before_2_5_are_repetitions_of_one_field():
    ack = lines(written(header("2.3.1"), "AE", problems=[MISSING, Problem("103", "no", Path("ORC", 1), 2)]))
    assert ack[2] == (
        "ERR|PID^1^3^101&Required field missing&HL70357~ORC^2^1^103&Table value not found&HL70357"
    )


def test_errors_since_2_5_are_segments_of_their_own():
    ack = lines(written(header(), "AE", problems=[MISSING, Problem("103", "no", Path("ORC", 1), 2)]))
    assert ack[2] == "ERR||PID^1^3^1^1|101^Required field missing^HL70357|E||||a patient id is needed"
    assert ack[3] == "ERR||ORC^2^1^1|103^Table value not found^HL70357|E||||no"


def test_at_most_ten_problems_are_reported():
    ack = lines(written(header(), "AE", problems=[MISSING] * 25))
    assert sum(line.startswith("ERR") for line in ack) == 10


def test_a_good_acknowledgement_carries_no_error_segment():
    warning = Problem("102", "odd", Path("PID", 7), severity=Severity.WARNING)
    assert not any(line.startswith("ERR") for line in lines(written(header(), "AA", problems=[warning])))


def test_a_refusal_always_says_why():
    assert lines(written(header(), "AR", text="too large"))[2].startswith("ERR|||207^")


def test_the_summary_is_short():
    ack = lines(written(header(), "AE", problems=[Problem("207", "x" * 500)]))
    assert len(ack[1].split("|")[3]) <= 80


def test_the_character_set_is_echoed_and_used():
    ack = build_ack(header(charset="8859/1"), "AA", control_id="B1", now=NOW, charset=LATIN_1, text="Größe")
    assert ack.split(b"\r")[0].endswith(b"|8859/1")
    assert "Größe".encode("latin-1") in ack


@pytest.mark.parametrize(
    ("accept", "application", "verdict", "codes"),
    [
        ("", "", "A", ["AA"]),
        ("", "", "E", ["AE"]),
        ("", "", "R", ["AR"]),
        ("AL", "NE", "A", ["CA"]),
        ("AL", "NE", "E", ["CE"]),
        ("AL", "NE", "R", ["CR"]),
        ("AL", "", "A", ["CA"]),
        ("AL", "AL", "A", ["CA", "AA"]),
        ("AL", "AL", "E", ["CA", "AE"]),
        ("NE", "AL", "E", ["AE"]),
        ("NE", "NE", "E", []),
        ("ER", "NE", "A", []),
        ("ER", "NE", "E", ["CE"]),
        ("SU", "NE", "A", ["CA"]),
        ("SU", "NE", "E", []),
        ("NE", "ER", "A", []),
        ("NE", "ER", "R", ["AR"]),
        ("NE", "SU", "A", ["AA"]),
        ("AL", "ER", "A", ["CA"]),
    ],
)
def test_what_is_answered_follows_msh_15_and_16(accept, application, verdict, codes):
    head = header(accept=accept, application=application)
    assert list(acknowledgements(head, Verdict(verdict))) == codes


def test_an_application_acknowledgement_in_enhanced_mode_asks_for_none_itself():
    ack = tokenize(written(header(accept="AL", application="AL"), "AA").decode())
    assert (ack.value("MSH-15"), ack.value("MSH-16")) == ("NE", "NE")


@pytest.mark.parametrize(
    ("conditions", "verdict"),
    [([], "A"), (["101"], "E"), (["204"], "E"), (["200"], "R"), (["201", "101"], "R"), (["207"], "E")],
)
def test_conditions_decide_the_verdict(conditions, verdict):
    assert verdict_of([Problem(condition, "x") for condition in conditions]).value == verdict


def test_warnings_do_not_refuse():
    assert verdict_of([Problem("102", "x", severity=Severity.WARNING)]) is Verdict.ACCEPTED


@pytest.mark.parametrize("version", ["2.3.1", "2.4", "2.5.1"])
def test_hl7apy_can_read_what_we_write(version):
    ack = written(header(version), "AE", problems=[MISSING]).decode()
    parsed = parse_message(ack, find_groups=False)
    assert parsed.msa.msa_1.value == "AE"
    assert parsed.msa.msa_2.value == "C-1"
    assert [child.name for child in parsed.children][:2] == ["MSH", "MSA"]
