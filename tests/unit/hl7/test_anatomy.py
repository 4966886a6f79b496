"""A message taken apart: names of the standard, problems where they are, bounded, and what it says with its sources."""

from datetime import UTC

import pytest

from broker.hl7.anatomy import MAX_FIELDS, MAX_SEGMENTS, MAX_TEXT_CHARACTERS, dissect, read_again
from broker.hl7.charsets import LATIN_1
from broker.hl7.mapping import MappingSet
from tests.journeys.hl7_orders import orm

MESSAGE = orm(accession="A1", patient_id="PID1", name="HAYDN^JOSEPH", study_uid="1.2.3")


def parts_of(message, problems=()):
    return {part.place: part for part in dissect(message.encode(), problems, default=LATIN_1)}


def field_of(message, place, problems=()):
    part = parts_of(message, problems)[place.partition("-")[0]]
    return next(field for field in part.fields if field.place == place)


def test_fields_bear_the_names_of_the_standard():
    found = field_of(MESSAGE, "PID-5")
    assert (found.name, found.text) == ("Patient Name", "HAYDN^JOSEPH")
    assert field_of(MESSAGE, "PID-3").name == "Patient Identifier List"
    assert field_of(MESSAGE, "MSH-2").text == "^~\\&"


@pytest.mark.parametrize("version", ["2.1", "2.3.1", "2.5.1", "9.9", "", "../x"])
def test_every_version_is_taken_apart(version):
    assert field_of(MESSAGE.replace("|2.3.1", f"|{version}", 1), "PID-5").name == "Patient Name"


def test_problems_stand_at_their_places():
    problems = [
        {"place": "PID-3.1", "text": "a patient identifier is needed"},
        {"place": "PID-40", "text": "is missing"},
        {"place": "OBR", "text": "is odd"},
        {"place": "ZZZ-1", "text": "of no segment that is there"},
    ]
    assert field_of(MESSAGE, "PID-3", problems).problems == ("PID-3.1: a patient identifier is needed",)
    missing = field_of(MESSAGE, "PID-40", problems)
    assert (missing.text, missing.problems) == ("", ("is missing",))
    assert parts_of(MESSAGE, problems)["OBR"].problems == ("is odd",)


def test_the_second_of_its_name_has_its_own_problems():
    twice = MESSAGE + "\rNTE|1||a\rNTE|2||b"
    found = parts_of(twice, [{"place": "NTE[2]-3", "text": "wrong"}])
    assert [field.problems for field in found["NTE[2]"].fields] == [(), ("wrong",)]
    assert not any(field.problems for field in found["NTE"].fields)


def test_what_is_shown_is_bounded_however_large_the_message():
    large = MESSAGE + "\rZZ1|" + "x" * 60_000 + "|y" * 1000 + "\rNTE|1" * 900
    found = dissect(large.encode(), default=LATIN_1)
    assert len(found) == MAX_SEGMENTS
    (segment,) = [part for part in found if part.place == "ZZ1"]
    assert len(segment.fields) == MAX_FIELDS
    assert (len(segment.fields[0].text), segment.fields[0].characters) == (MAX_TEXT_CHARACTERS, 60_000)


@pytest.mark.parametrize("junk", [b"", b"\x00", b"GET / HTTP/1.1", b"\xff" * 9000, b"MSH", b"PID|1"])
def test_what_is_no_message_has_no_parts(junk):
    mappings = MappingSet.load(None, site_zone=UTC)
    parts = dissect(junk, default=LATIN_1)
    assert parts == [] or parts[0].place == "MSH"
    assert read_again(junk, mappings, default=LATIN_1).values == ()


def test_each_value_is_told_with_the_place_it_is_read_from():
    again = read_again(MESSAGE.encode(), MappingSet.load(None, site_zone=UTC), default=LATIN_1)
    said = {(value.level, value.keyword): value for value in again.values}
    assert said["patient", "PatientName"].value == "HAYDN^JOSEPH"
    assert said["patient", "PatientName"].source == "PID-5"
    assert said["order", "AccessionNumber"].value == "A1"
    assert said["order", "what is asked"].value == "place"
    assert ("step", "Modality") in said
    assert not [problem for problem in again.problems if problem["place"] == "PID-5"]


def test_what_the_mapping_does_not_take_is_said():
    other = MESSAGE.replace("ORM^O01", "ZZZ^Z01", 1)
    again = read_again(other.encode(), MappingSet.load(None, site_zone=UTC), default=LATIN_1)
    assert (again.values, again.problems[0]["place"]) == ((), "MSH-9.1")
