"""What is read quickly, because it is plain or was read before, is what a first and slow reading gives."""

from datetime import UTC
from random import Random
from unittest.mock import patch

import pytest

from broker.hl7 import rules
from broker.hl7.ack import Severity
from broker.hl7.converters import Conversion
from broker.hl7.groups import group_orders
from broker.hl7.mapping import MappingSet
from broker.hl7.rules import SECTIONS, CompiledRules
from broker.hl7.tokenizer import Limits, MessageTooComplexError, tokenize

PARTS = (
    *(
        '""',
        "",
        "",
        " ",
        " CT1 ",
        "20261121",
        "20261121093000+0100",
        "M",
        "CT",
        "STAT",
        "1.2.3",
        "R",
        "kg",
        "L",
    ),
    *(
        "x" * 17,
        "word " * 20,
        "9" * 65,
        "C:\\dose",
        "\\X41\\",
        "\\.br\\",
        "\\T\\",
        "ÄÖÜ",
        "A&B",
        "71,5",
        "a\x07b",
    ),
    *("A" * 11, "HAYDN", '"', "3142-7", "#F#", "V4711", "CTCHEST", "99RIS"),
)
SEPARATORS = ("MSH|^~\\&", "MSH|^~\\&", "MSH|^~#&", "MSH|^~", "MSH|^")


@pytest.fixture(scope="module")
def mapping():
    return MappingSet.load(None, site_zone=UTC).for_sender("RIS", "HOSP")


def a_segment(random: Random, start: str, fields: int) -> str:
    values = []
    for _ in range(random.randint(0, fields)):
        repetitions = [
            "^".join(random.choices(PARTS, k=random.randint(0, 5)))
            for _ in range(random.choice((0, 1, 1, 1, 2)))
        ]
        values.append("~".join(repetitions))
    return "|".join([start, *values])


def a_message(random: Random) -> str:
    at = random.choice(("20261121081530", "20261121081530+0500", ""))
    segments = [f"{random.choice(SEPARATORS)}|RIS|HOSP|BROKER|RAD|{at}||ORM^O01|1|P|2.5.1"]
    segments += [
        a_segment(random, "PID|1", 30),
        a_segment(random, "PV1", 20),
        a_segment(random, "ORC|NW|P1|F1", 20),
    ]
    for _ in range(random.randint(1, 2)):
        segments.append(a_segment(random, "OBR|1|P1|F1", 45))
        segments += [a_segment(random, name, 8) for name in random.choices(("OBX", "NTE", "ZDS", "IPC"), k=2)]
    return "\r".join(segments)


def read(mapping, text, limits):
    """Read every section of what the message says of everything."""
    message = tokenize(text, limits=limits)
    file = mapping.file
    tables = {"modalities": file.modalities, "sexes": file.sexes, "priorities": file.priorities}
    conversion = Conversion(UTC, None, tables, mapping.rules.remembered(message, None))
    group = group_orders(message).patient
    problems = []
    found = []
    for section in SECTIONS:
        try:
            found.append(mapping.rules.read(section, group, conversion, problems, Severity.ERROR))
        except MessageTooComplexError as error:
            problems.append(error.field)
    return found, problems


@pytest.mark.parametrize("limits", [Limits(), Limits(max_field_characters=24, max_repetitions=1)])
def test_what_is_remembered_and_what_is_taken_as_sent_is_what_would_be_read(mapping, limits):
    random = Random(4711)
    values = 0
    for _ in range(400):
        text = a_message(random)
        quick = read(mapping, text, limits), read(mapping, text, limits)
        with (
            patch.object(rules, "_as_sent", lambda *_: None),
            patch.object(CompiledRules, "remembered", lambda *_: {}),
        ):
            slow = read(mapping, text, limits)
        assert quick == (slow, slow)
        values += sum(len(section.changes) for section in slow[0])
    assert values > 1000


def test_no_more_is_remembered_than_is_bounded(mapping):
    text = "MSH|^~\\&|RIS|HOSP|BROKER|RAD|20261121||ORM^O01|1|P|2.5.1\rPID|1||P1^^^HOSP||N{0}^B\rORC|NW|P1\rOBR|1|P1"
    for number in range(rules.MAX_REMEMBERED + 10):
        read(mapping, text.format(number), Limits())
    message = tokenize(text.format(1))
    assert 0 < len(mapping.rules.remembered(message, None)) <= rules.MAX_REMEMBERED + 100
