"""What is wrong is said in the order in which it harms."""

from datetime import timedelta

import pytest

from broker.domain.rhythm import Silence
from broker.workflow.overview_port import DestinationState, HealthPart, Resource, Urgent
from broker.workflow.reports_port import DayCounts
from broker.workflow.silence import SourceState
from broker.workflow.troubles import troubles
from tests.builders import NOW

QUIET_DAY = dict.fromkeys(DayCounts.__dataclass_fields__, 0)


def a_source(kind, name, silence=Silence.SILENT):
    reason = "silent for 38 min, usually every 4 min at this hour on a Saturday"
    return SourceState(
        kind,
        name,
        "",
        "",
        NOW,
        "message" if kind == "sender" else "list",
        silence,
        timedelta(minutes=4),
        reason,
    )


def a_queue(name, **changes):
    values = {
        "destination": name,
        "state": "up",
        "reason": None,
        "waiting": 0,
        "stat_waiting": 0,
        "oldest": None,
        "dead": 0,
        "delivered": (),
        "delivered_last_hour": 0,
        "failed_last_hour": 0,
        "last_success_at": None,
        "drains_in": None,
    }
    return DestinationState(**(values | changes))


def say(*, day=(), destinations=(), sources=(), health=(), resources=(), urgent=(0, 0, 0), refused=0):
    return troubles(
        day=DayCounts(**(QUIET_DAY | dict(day))),
        destinations=destinations,
        sources=sources,
        health=health,
        resources=resources,
        urgent=Urgent(*urgent),
        refused_devices=refused,
        now=NOW,
    )


def test_nothing_is_said_when_nothing_is_wrong():
    up = [a_queue("archive", waiting=2, oldest=NOW)]
    heard = [a_source("sender", "RIS", silence) for silence in Silence if silence is not Silence.SILENT]
    assert say(destinations=up, sources=heard, resources=[Resource("Disk", "up", "")]) == []


def test_patients_who_wait_come_first_whatever_the_component():
    found = say(
        day={"parked_messages": 2},
        destinations=[
            a_queue("film", state="paused", reason="tray change"),
            a_queue("archive", state="failing", waiting=2, oldest=NOW),
            a_queue("stroke", state="failing", waiting=1, stat_waiting=1, oldest=NOW),
            a_queue("ai", dead=3),
            a_queue("chest", dead=3, stat_dead=1),
        ],
        sources=[a_source("device", "CT1"), a_source("sender", "RIS")],
        health=[HealthPart("dicom", False, "no sign of life")],
        resources=[Resource("Disk", "filling", "full in 5 d"), Resource("Redis", "down", "does not answer")],
        urgent=(1, 0, 2),
    )
    assert [trouble.headline.split(":")[0] for trouble in found] == [
        "The dicom role does not serve",
        "Redis",
        "2 STAT steps no scanner sees",
        "stroke is failing",
        "3 deliveries to chest need a person, 1 STAT",
        "1 patient has arrived and waits since more than half an hour after the start",
        "RIS is silent for 38 min",
        "archive is failing",
        "Disk",
        "film is paused",
        "3 deliveries to ai need a person",
        "CT1 is silent for 38 min",
        "2 messages are parked",
    ]


def test_what_somebody_holds_on_purpose_says_who_and_until_when_and_is_last_while_nothing_waits():
    held = {"state": "paused", "held_by": "anna", "reason": "new disks"}
    found = say(
        destinations=[
            a_queue("film", **held),
            a_queue("pacs", waiting=2, oldest=NOW, resume_at=NOW + timedelta(hours=2), **held),
        ],
        day={"parked_messages": 1},
        refused=1,
    )
    assert [(trouble.headline, trouble.detail, trouble.action) for trouble in found if trouble.word == "paused"] == [
        ("pacs is paused by anna: 2 deliveries wait, the oldest 0 s", "New disks", "It resumes by itself in 2 h 0 min."),
        ("film is paused by anna: nothing waits", "New disks", "Resume it when the work is done."),
    ]  # fmt: skip
    assert [trouble.word for trouble in found] == ["paused", "refused", "paused", "parked"]


def test_a_device_that_was_refused_is_told_with_the_way_to_let_it_in():
    (one,), (two,) = say(refused=1), say(refused=2)
    assert (one.headline, one.link) == ("1 device was refused since yesterday", "/devices#knocks")
    assert two.headline == "2 devices were refused since yesterday"


@pytest.mark.parametrize("kind", ["sender", "device"])
def test_a_silence_says_what_is_usual_and_what_to_do(kind):
    (trouble,) = say(sources=[a_source(kind, "A/B&C")])
    assert trouble.detail.startswith("It talks usually every 4 min at this hour on a Saturday; the last was ")
    page = {"sender": "/messages?sender=", "device": "/devices/"}[kind]
    assert trouble.link == f"{page}A%2FB%26C"


def test_many_silent_devices_are_one_sentence():
    talking = a_source("sender", "RIS", Silence.NORMAL)
    (trouble,) = say(sources=[*(a_source("device", f"CT{n}") for n in range(10)), talking])
    assert trouble.headline == "10 devices are silent that usually talk at this hour"
    assert trouble.detail.endswith("CT7 and 2 more")


def test_when_everybody_is_silent_it_is_rather_us():
    unknown = a_source("device", "NEW", Silence.UNKNOWN)
    (trouble,) = say(
        sources=[a_source("device", "CT1"), a_source("device", "CT2"), a_source("sender", "RIS"), unknown]
    )
    assert trouble.weight == 1
    assert trouble.headline == "Everybody is silent, all 3 who usually talk at this hour"
    assert "this machine's network" in trouble.action
    assert len(say(sources=[a_source("device", "CT1"), a_source("sender", "RIS")])) == 2


def test_every_trouble_leads_somewhere_and_says_what_to_do():
    found = say(
        day=dict.fromkeys(QUIET_DAY, 1),
        destinations=[a_queue("x", waiting=1, oldest=NOW - timedelta(hours=1), dead=1)],
        urgent=(1, 1, 1),
    )
    assert len(found) == 9
    assert all(trouble.action and trouble.label and trouble.link.startswith("/") for trouble in found)
