"""What is worth an alert, and what is not."""

from dataclasses import replace
from datetime import timedelta

import pytest

from broker.domain.alerts import AlertKind as K
from broker.domain.alerts import Severity as V
from broker.domain.rhythm import Silence
from broker.workflow.alert_conditions import Certificate, Standing, Thresholds, findings
from broker.workflow.alerts_port import Overdue
from broker.workflow.overview_port import HealthPart, Resource, Urgent
from broker.workflow.reports_port import DestinationLine
from broker.workflow.silence import SourceState
from tests.builders import NOW

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
LINE = DestinationLine("archive", "up", None, 0, None, 0, 0, None, since=NOW - DAY)
PEER_SAID = "HAYDN^JOSEPH is not welcome"


def found(**standing):
    return [
        (one.kind, one.subject, one.severity) for one in findings(Standing(**standing), Thresholds(), now=NOW)
    ]


def owed(minutes=5, urgent=0, waiting=3):
    return [
        Overdue(
            "archive", waiting, NOW - minutes * MINUTE, urgent, NOW - minutes * MINUTE if urgent else None
        )
    ]


def source(kind="sender", silence=Silence.SILENT, name="RIS", facility=""):
    return SourceState(
        kind, name, facility, "10.0.0.1", NOW, "message", silence, 4 * MINUTE, "silent for 40 min, usually 4"
    )


@pytest.mark.parametrize(
    ("line", "overdue", "expected"),
    [
        ({}, [], []),
        ({}, owed(29), []),
        ({}, owed(30), [(K.BACKLOG, "archive", V.WARNING)]),
        ({}, owed(9, urgent=1), []),
        ({}, owed(10, urgent=1), [(K.URGENT, "archive", V.CRITICAL)]),
        ({"state": "failing"}, [], [(K.FAILING, "archive", V.WARNING)]),
        ({"state": "failing"}, owed(5, urgent=1), [(K.FAILING, "archive", V.CRITICAL)]),
        ({"state": "paused"}, [], []),
        ({"state": "paused"}, owed(), [(K.PAUSED, "archive", V.WARNING)]),
        ({"state": "paused", "held_by": "anna", "since": NOW - 59 * MINUTE}, owed(), []),
        (
            {"state": "paused", "held_by": "anna", "since": NOW - 60 * MINUTE},
            owed(500),
            [(K.PAUSED, "archive", V.WARNING)],
        ),
        ({"dead": 40}, [], [(K.DEAD, "archive", V.WARNING)]),
        ({"dead": 40, "stat_dead": 1}, [], [(K.DEAD, "archive", V.CRITICAL)]),
    ],
)
def test_destinations(line, overdue, expected):
    assert found(destinations=[replace(LINE, **line)], overdue=overdue) == expected


@pytest.mark.parametrize(
    ("left", "severity"),
    [
        (31 * DAY, None),
        (30 * DAY, V.NOTICE),
        (7 * DAY, V.WARNING),
        (DAY, V.CRITICAL),
        (-DAY, V.CRITICAL),
    ],
)
def test_certificates(left, severity):
    expected = [(K.CERTIFICATE, "listen.web.tls.certificate", severity)] if severity else []
    assert found(certificates=[Certificate("listen.web.tls.certificate", NOW + left)]) == expected


def test_a_certificate_that_cannot_be_read_is_told():
    assert found(certificates=[Certificate("x", None, "no such file")]) == [(K.CERTIFICATE, "x", V.CRITICAL)]


def test_who_is_silent():
    talking = [source(silence=one) for one in (Silence.NORMAL, Silence.QUIET, Silence.UNKNOWN)]
    assert found(sources=talking) == []
    assert found(sources=[source(), source("device", name="CT1")]) == [
        (K.SILENT, "RIS", V.CRITICAL),
        (K.SILENT, "CT1", V.WARNING),
    ]
    # One name of several hosts is one alert.
    assert len(found(sources=[source(), source()])) == 1


def test_what_the_roles_stand_on():
    health = [
        HealthPart("hl7", False, "refused"),
        HealthPart("web", True, ""),
        HealthPart("disk reserve", False, "told as a resource"),
    ]
    resources = [
        Resource("Redis", "away", "away"),
        Resource("Disk", "full", "full"),
        Resource("X", "down", ""),
    ]
    assert found(health=health, resources=resources) == [
        (K.ROLE, "hl7", V.CRITICAL),
        (K.DISK, "", V.CRITICAL),
        (K.REDIS, "", V.WARNING),
    ]


def test_patients_who_wait_and_a_broken_chain():
    assert found(urgent=Urgent(5, 1, 2), audit=["event 7 is not what was sealed"]) == [
        (K.URGENT, "incomplete", V.CRITICAL),
        (K.URGENT, "overdue", V.CRITICAL),
        (K.AUDIT, "", V.CRITICAL),
    ]


def test_what_peers_say_and_hostile_names_do_not_leave_the_house():
    line = replace(LINE, state="failing", reason=PEER_SAID, dead=1)
    standing = Standing(
        destinations=[line], sources=[source(name="RIS\r\nBcc: x\x1b[2J" + "R" * 65_536, facility="F")]
    )
    for one in findings(standing, Thresholds(), now=NOW):
        assert "HAYDN" not in str(one)
        assert one.headline.isprintable()
        assert len(one.subject) <= 100
        assert one.link.startswith("/")


def test_a_synthetic_exam_that_failed_is_an_alert_that_keeps_what_the_peer_said_in_the_house():
    failed = Resource(
        "Synthetic exam",
        "failing",
        f"failed at image: {PEER_SAID}",
        "Mend it.",
        "/probe/7",
        "failed at image",
    )
    (finding,) = findings(Standing(resources=[failed]), Thresholds(), now=NOW)
    assert (finding.kind, finding.severity, finding.link) == (K.PROBE, V.CRITICAL, "/probe/7")
    assert finding.headline == "Synthetic exam: failed at image"
    overdue = Resource("Synthetic exam", "overdue", "held at 08:00", "See why.", "/probe")
    assert found(resources=[overdue]) == [(K.PROBE, "", V.WARNING)]
    assert found(resources=[replace(overdue, state="up")]) == []
