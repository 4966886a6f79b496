"""The examples we ship: each does what its name says, and the annotated mapping is one."""

from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hl7apy.parser import parse_message

from broker.hl7.ack import Header
from broker.hl7.mapping import MappingSet
from broker.hl7.sender import read_messages
from broker.hl7.tokenizer import tokenize

CONFIG = Path(__file__).parents[3] / "config"
EXAMPLES = sorted((CONFIG / "examples").glob("*.hl7"))
MAPPINGS = MappingSet.load(CONFIG / "hl7", site_zone=ZoneInfo("Europe/Berlin"))


def read(path):
    (raw,) = read_messages(path.read_bytes())
    message = tokenize(raw.decode())
    header = Header.of(message)
    mapping = MAPPINGS.for_sender(message.value("MSH-3"), message.value("MSH-4"))
    return mapping.read(message, header)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_taken_unless_its_name_says_otherwise(path):
    mapped = read(path)
    assert mapped.refused == ("refused" in path.stem)
    assert not mapped.ignored
    if mapped.refused:
        assert len(mapped.problems) == 3
    else:
        assert mapped.problems == ()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_another_parser_reads_an_example_too(path):
    (raw,) = read_messages(path.read_bytes())
    assert len(parse_message(raw.decode(), find_groups=False).children) == raw.count(b"\r")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_of_synthetic_people(path):
    message = tokenize(path.read_text(encoding="utf-8"))
    assert message.value("PID-5").startswith("ZZTEST")


def test_the_annotated_mapping_is_for_its_own_sender_only():
    example, common = MAPPINGS.for_sender("EXAMPLE_RIS", "X"), MAPPINGS.for_sender("EXAMPLE_HIS", "X")
    assert example.file.modalities["KERN"] == "MR"
    assert "KERN" not in common.file.modalities
    assert example.file.patient["PatientAddress"] is None
    assert common.file.patient["PatientAddress"] is not None
    assert example.file.modalities["CT"] == "CT"
