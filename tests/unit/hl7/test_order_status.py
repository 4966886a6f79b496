"""Status messages: what they say, in whose characters, and that hl7apy and our own reader agree."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hl7apy.parser import parse_message, parse_segment

from broker.domain.orders import (
    Code,
    EntityIdentifier,
    ImagingOrder,
    Patient,
    RequestedProcedure,
    ScheduledProcedureStep,
    WorklistEntry,
)
from broker.domain.steps import OrderStatus, PerformedStatus, StepStatus
from broker.hl7.charsets import charset_named, decode
from broker.hl7.order_status import OrderStatusMessages
from broker.hl7.tokenizer import tokenize
from broker.workflow.performed_port import PerformedStep
from tests.fakes.clock import FakeClock


def an_entry(
    *, name="ZZTEST^SALLY^Q^DR^JR", status=StepStatus.STARTED, accession="A100", description="CT CHEST"
):
    return WorklistEntry(
        Patient(1, "4711", "HOSP", name, "19700203", "F"),
        ImagingOrder(
            1, 1, EntityIdentifier("P^100", "RIS"), EntityIdentifier("F100"), accession, None,
            OrderStatus.IN_PROGRESS, sending_application="RIS", sending_facility="HOSP",
        ),
        RequestedProcedure(
            1, 1, "RP100", "1.2.3",
            {"RequestedProcedureCodeSequence": (Code("CT&CH", "L", "CT Chest"),), "RequestedProcedureDescription": description},
        ),
        ScheduledProcedureStep(1, 1, "SP100", "CT", ("CT1",), "20261121", "100000", status),
    )  # fmt: skip


def performed(**changes):
    values = {"started_at": "20261121100500", "ended_at": "20261121102000", "modality": "CT"}
    return PerformedStep(1, "1.2.3.4", PerformedStatus.IN_PROGRESS, "CT1", b"", **{**values, **changes})


def write(entry=None, status=PerformedStatus.COMPLETED, step=None, **options):
    clock = FakeClock(datetime(2026, 11, 21, 9, 30, tzinfo=UTC), ZoneInfo("Europe/Berlin"))
    writer = OrderStatusMessages(clock, sending_facility="RAD", control_ids=lambda: "ID7", **options)
    return writer.status_message(entry or an_entry(), step or performed(), status)


@pytest.mark.parametrize("kind", ["ORM^O01", "OMG^O19"])
def test_a_status_names_the_order_as_the_ris_knows_it(kind):
    message = tokenize(write(message=kind).decode())
    expected = {
        "MSH-3": "BROKER", "MSH-4": "RAD", "MSH-5": "RIS", "MSH-6": "HOSP", "MSH-10": "ID7", "MSH-11": "P",
        "PID-3.1": "4711", "PID-3.4": "HOSP", "PID-5": "ZZTEST^SALLY^Q^JR^DR", "PID-7": "19700203", "PID-8": "F",
        "ORC-1": "SC", "ORC-2.1": "P^100", "ORC-2.2": "RIS", "ORC-3.1": "F100", "ORC-5": "CM", "ORC-9": "20261121103000",
        "OBR-2.1": "P^100", "OBR-4.1": "CT&CH", "OBR-4.2": "CT Chest", "OBR-4.3": "L", "OBR-7": "20261121100500",
        "OBR-8": "20261121102000", "OBR-18": "A100", "OBR-19": "RP100", "OBR-20": "SP100", "OBR-24": "CT", "OBR-44.1": "CT&CH",
    }  # fmt: skip
    assert {path: message.value(path) for path in expected} == expected
    assert message.value("MSH-9").startswith(kind)


def test_the_segments_stand_in_the_order_of_their_type():
    assert [s.name for s in tokenize(write(message="ORM^O01").decode()).segments] == [
        "MSH",
        "PID",
        "PV1",
        "ORC",
        "OBR",
    ]
    assert [s.name for s in tokenize(write(message="OMG^O19").decode()).segments] == [
        "MSH",
        "PID",
        "PV1",
        "ORC",
        "TQ1",
        "OBR",
    ]


@pytest.mark.parametrize(
    ("status", "step_status", "code"),
    [
        (PerformedStatus.IN_PROGRESS, StepStatus.STARTED, "IP"),
        (PerformedStatus.COMPLETED, StepStatus.COMPLETED, "CM"),
        (PerformedStatus.DISCONTINUED, StepStatus.DISCONTINUED, "DC"),
        (PerformedStatus.DISCONTINUED, StepStatus.SCHEDULED, "SC"),
    ],
)
def test_the_order_status_follows_the_performed_step(status, step_status, code):
    assert tokenize(write(an_entry(status=step_status), status).decode()).value("ORC-5") == code


def test_a_step_in_progress_has_no_end():
    assert tokenize(write(status=PerformedStatus.IN_PROGRESS).decode()).value("OBR-8") == ""


def test_names_in_several_scripts_are_repetitions_with_their_script():
    entry = an_entry(name="YAMADA^TAROU=山田^太郎=やまだ^たろう")
    message = tokenize(write(entry).decode())
    assert message.value("PID-5") == "YAMADA^TAROU^^^^^^A"
    assert message.value("PID-5[2].1") == "山田"
    assert message.value("PID-5[3].8") == "P"


def test_text_is_written_in_the_characters_of_the_ris():
    message = write(an_entry(name="MÜLLER^ŁUCJA"), charset=charset_named("8859/1"))
    assert decode(message, "8859/1").text.count("MÜLLER^LUCJA") == 1
    assert tokenize(message.decode("latin-1")).value("MSH-18") == "8859/1"


@pytest.mark.parametrize("hostile", ["a|b", "a^b", "a&b", "a~b", "a\\b", "a\rORC|NW", "a\nb", "\x0b\x1c\r"])
def test_no_value_can_add_fields_or_segments(hostile):
    raw = write(an_entry(accession=hostile))
    message = tokenize(raw.decode())
    assert [s.name for s in message.segments] == ["MSH", "PID", "PV1", "ORC", "OBR"]
    assert b"\x1c" not in raw
    assert b"\x0b" not in raw
    if hostile.isprintable():
        assert message.value("OBR-18") == hostile


def test_unknown_values_are_left_out():
    entry = an_entry(accession=None, name="")
    message = tokenize(write(entry, step=performed(started_at=None, ended_at=None, modality=None)).decode())
    assert (message.value("OBR-18"), message.value("OBR-7"), message.value("PID-5")) == ("", "", "")


@pytest.mark.parametrize(("kind", "version"), [("ORM^O01", "2.3.1"), ("OMG^O19", "2.5.1")])
def test_hl7apy_finds_every_segment_valid(kind, version):
    raw = write(message=kind).decode()
    parsed = parse_message(raw, find_groups=False)
    assert parsed.version == version
    for segment in raw.split("\r")[1:-1]:
        # Validated segment by segment: of ORM_O01 hl7apy demands every choice of its order detail at once.
        assert parse_segment(segment, version=version).validate()
