"""Who looked at whom, found by patient, order, study, person and time, on both databases."""

import json
import subprocess
from datetime import timedelta

import pytest
from sqlalchemy import text

from broker.db.reports import SqlReports
from broker.db.seal import seal_events, verify_events
from broker.domain.events import Event, EventName, Subject
from broker.workflow.accounts import Caller
from broker.workflow.audit import Audit, Shown
from broker.workflow.audit_port import AuditQuestion
from tests.broker_process import BROKER, ROOT
from tests.builders import NOW, a_stored_entry, an_instance

ADA, BOB = Caller("ada", "192.0.2.1"), Caller("bob", "192.0.2.2")


@pytest.fixture
def audit(uow_factory, clock):
    return Audit(uow_factory, clock)


@pytest.fixture
def entries(uow_factory):
    with uow_factory() as uow:
        made = [a_stored_entry(uow, number) for number in (1, 2)]
        uow.instances.add_many([an_instance(9, study_instance_uid="1.2.9", patient_id="PID1")])
        uow.commit()
    return made


def of_order(entry):
    return Shown(Subject.ORDER, entry.order.id, None, entry.order.id)


def actors(reports, **question):
    return [line.actor for line in reports.audit(AuditQuestion(what="viewed", **question))]


def test_who_looked_at_a_patient_is_found_by_patient_order_study_person_and_time(
    audit, reports, entries, clock
):
    one, two = entries
    audit.viewed(ADA, [of_order(one)], page="/orders/{order_id}")
    clock.advance(60)
    audit.viewed(BOB, [of_order(one), of_order(two)], page="/orders", listed=True)
    clock.advance(60)
    audit.viewed(BOB, [Shown(Subject.STUDY, None, "1.2.9")], page="/studies/{study_instance_uid}")
    assert actors(reports, patient="PID1") == ["bob", "bob", "ada"]
    assert actors(reports, patient="PID2") == ["bob"]
    assert actors(reports, patient="NOBODY") == []
    assert actors(reports, order=one.order.id) == ["bob", "ada"]
    assert actors(reports, study_instance_uid="1.2.9") == ["bob"]
    assert actors(reports, actor="ada", patient="PID1") == ["ada"]
    assert actors(reports, since=NOW + timedelta(seconds=90)) == ["bob"]
    assert actors(reports, until=NOW + timedelta(seconds=30)) == ["ada"]
    (line,) = reports.audit(AuditQuestion(actor="ada", what="viewed"))
    assert (line.address, line.order, line.is_sealed) == ("192.0.2.1", one.order.id, False)
    assert line.details == {"page": "/orders/{order_id}", "how": "opened"}
    (older,) = reports.audit(AuditQuestion(patient="PID1", what="viewed"), before=line.id + 1)
    assert older == line


def test_pages_of_the_trail_follow_each_other_in_the_order_of_time_whoever_is_asked_for(
    uow_factory, reports, clock
):
    names = [EventName.SIGNED_IN, EventName.VIEWED, EventName.SIGNED_OUT, EventName.VIEWED]
    for number in range(40):
        with uow_factory() as uow:
            for actor in ("ada", "bob"):
                what = names[(number + (actor == "bob")) % len(names)]
                uow.record(Event(what, Subject.ACCOUNT, number, actor=actor))
            uow.commit()
        if number % 3 == 0:
            clock.advance(1)  # the others share their instant
    for asked in ({}, {"actor": "ada"}, {"what": "viewed"}, {"actor": "bob", "what": "viewed"}):
        whole = reports.audit(AuditQuestion(**asked), limit=500)
        assert len(whole) == 80 // (2 ** len(asked))
        assert [(line.at, line.id) for line in whole] == sorted(
            ((line.at, line.id) for line in whole), reverse=True
        )
        pages, before = [], None
        while part := reports.audit(AuditQuestion(**asked), before=before, limit=7):
            pages += part
            before = part[-1].id
        assert pages == list(whole)
        middle = whole[len(whole) // 2].at
        assert list(reports.audit(AuditQuestion(**asked, since=middle), limit=500)) == [
            line for line in whole if line.at >= middle
        ]
        assert list(reports.audit(AuditQuestion(**asked, until=middle), limit=500)) == [
            line for line in whole if line.at < middle
        ]


def test_a_page_that_renews_itself_is_one_view_a_minute_and_other_objects_are_their_own(
    audit, reports, entries, clock
):
    one, two = entries
    for _ in range(5):
        audit.viewed(ADA, [of_order(one)], page="/x")
        clock.advance(10)
    assert len(actors(reports)) == 1
    clock.advance(11)
    audit.viewed(ADA, [of_order(one), of_order(two)], page="/x")
    audit.viewed(Caller("ada", "192.0.2.9"), [of_order(one)], page="/x")
    assert len(actors(reports)) == 4, "another place is another view"


def test_a_search_is_written_down_with_its_words_and_a_list_with_every_row(audit, reports):
    many = [Shown(Subject.ORDER, number, None, number) for number in range(1, 700)]
    audit.viewed(ADA, many, page="/find", listed=True, searched="haydn" * 100)
    audit.viewed(ADA, [], page="/find", searched="haydn" * 100)
    (search,) = reports.audit(AuditQuestion(what="searched"))
    assert search.details["text"] == ("haydn" * 100)[:200]
    for number in (1, 500, 699):
        assert len(reports.audit(AuditQuestion(order=number, what="viewed"))) == 1, (
            "a long list forgets nobody"
        )


def test_what_cannot_be_written_down_is_not_shown_and_is_written_the_next_time(engine, uow_factory, clock):
    class Down:
        def __call__(self):
            raise RuntimeError("away")

    audit = Audit(Down(), clock)
    with pytest.raises(RuntimeError):
        audit.viewed(ADA, [Shown(Subject.ORDER, 1, None, 1)], page="/x")
    audit._units_of_work = uow_factory
    audit.viewed(ADA, [Shown(Subject.ORDER, 1, None, 1)], page="/x")
    assert len(SqlReports(engine).audit(AuditQuestion(what="viewed"))) == 1


def test_a_view_is_sealed_into_the_chain_and_its_change_is_found(audit, engine, reports, entries):
    audit.viewed(ADA, [of_order(entries[0])], page="/x")
    seal_events(engine)
    assert reports.audit(AuditQuestion(actor="ada"))[0].is_sealed
    assert verify_events(engine).problems == ()
    with engine.begin() as connection:
        connection.execute(text("UPDATE event SET actor = 'bob' WHERE actor = 'ada'"))
    assert len(verify_events(engine).problems) == 1


def test_looking_is_no_part_of_what_happened_to_an_order(audit, reports, entries):
    audit.viewed(ADA, [of_order(entries[0])], page="/x")
    assert "viewed" not in {line.what for line in reports.order_timeline(entries[0].order.id)}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_accounts_tokens_and_the_trail_from_the_command_line(tmp_path):
    data, config = tmp_path / "data", tmp_path / "broker.yaml"
    config.write_text("site: { name: X }\n")

    def run(*arguments, typed=None):
        done = subprocess.run(
            [BROKER, *arguments, "-c", config, "-d", data],
            input=typed,
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("db", "migrate")
    assert run("users", "add", "Ada", "--role", "admin", typed="one lamp, two doors\n") == "ada: admin\n"
    token = run("tokens", "issue", "prometheus").strip()
    assert token.startswith("wlb_")
    trail = json.loads(run("audit", "list", "--json"))
    assert [line["what"] for line in trail] == ["token issued", "account added"]
    assert all("(command line)" in line["actor"] for line in trail)
    assert token not in json.dumps(trail)
    assert "0 problems" in run("audit", "verify")
