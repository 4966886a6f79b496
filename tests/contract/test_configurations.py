"""The configuration's history on both databases: what is in force, who changed it and why, and the way back."""

import errno
import json
import os
from pathlib import Path

import pytest
from sqlalchemy import select

from broker.bootstrap import check_site
from broker.configuration import SiteFileHere
from broker.db.heartbeats import beat
from broker.db.reports import SqlReports
from broker.db.schema import EVENT
from broker.errors import ConfigurationError, Conflict, MissingValue, NotFound
from broker.workflow.accounts import Caller
from broker.workflow.configuration import (
    ConfigurationKeeper,
    FixedSiteFile,
    InvalidConfiguration,
    digest,
)
from broker.workflow.configuration_port import How

ADA = Caller("ada", "192.0.2.1")
ONE = "# the first\nsite: { name: One }\n"
TWO = "site: { name: Two }\nlisten: { dicom: { processes: 2 } }\n"


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "etc" / "broker.yaml"
    file.parent.mkdir()
    file.write_text(ONE)
    file.chmod(0o644)
    return file


@pytest.fixture
def keeper(engine, uow_factory, clock, path, tmp_path):
    here = SiteFileHere(path, tmp_path, check_site)
    return ConfigurationKeeper(uow_factory, SqlReports(engine), here, clock)


def start(keeper, body):
    """A role starts on a text."""
    return keeper.take_up(digest(body), body)


def events(engine, name):
    with engine.connect() as connection:
        rows = connection.execute(select(EVENT).where(EVENT.c.name == name).order_by(EVENT.c.id)).mappings()
        return [(row["actor"], row["subject_id"], row["details"]) for row in rows]


def history(keeper):
    return [
        (change.version, change.before, change.how, change.actor, change.in_force_at is not None)
        for change in reversed(keeper.reports.configuration_changes())
    ]


def everything(path, engine):
    """All that may not change when something is refused."""
    with engine.connect() as connection:
        count = len(connection.execute(select(EVENT.c.id)).all())
    return path.read_bytes(), count, sorted(path.parent.iterdir())


def test_many_roles_that_start_on_one_file_bring_it_into_force_once(keeper, engine):
    assert [start(keeper, ONE) for _ in range(3)] == [1, 1, 1]
    assert history(keeper) == [(1, None, How.FOUND, "site file", True)]
    ((actor, version, details),) = events(engine, "configuration loaded")
    assert (actor, version, details["sha256"]) == ("site file", 1, digest(ONE))


def test_a_file_that_was_edited_by_hand_is_a_version_of_its_own_and_the_first_may_come_again(keeper):
    start(keeper, ONE)
    start(keeper, TWO)
    start(keeper, ONE)
    assert history(keeper) == [
        (1, None, How.FOUND, "site file", True),
        (2, 1, How.FOUND, "site file", True),
        (1, 2, How.FOUND, "site file", True),
    ]


def test_what_a_person_applies_is_written_down_with_who_and_why_and_in_force_when_a_role_runs_on_it(
    keeper, engine, path, clock
):
    start(keeper, ONE)
    clock.advance(60)
    change = keeper.apply(TWO, reason="  second\tscanner ", by=ADA, expected=digest(ONE))
    assert path.read_text() == TWO
    assert path.stat().st_mode & 0o777 == 0o644
    assert [file.name for file in path.parent.iterdir()] == ["broker.yaml"]
    ((actor, version, details),) = events(engine, "configuration changed by a person")
    assert (actor, version) == ("ada", change.version)
    assert details == {
        "address": "192.0.2.1",
        "how": "applied",
        "before": 1,
        "reason": "second scanner",
        "sha256": digest(TWO),
    }
    # A role that died meanwhile starts on what runs: the change goes on waiting.
    start(keeper, ONE)
    standing = keeper.standing()
    assert (standing.in_force.version, standing.waiting.version, standing.version) == (1, 2, 2)
    clock.advance(60)
    start(keeper, TWO)
    standing = keeper.standing()
    assert (standing.in_force.version, standing.waiting) == (2, None)
    assert standing.in_force.in_force_at == clock.now()
    assert [actor for actor, _, _ in events(engine, "configuration loaded")] == ["site file", "ada"]


def test_rolling_back_keeps_a_broken_file_and_brings_the_older_text_back(keeper, path):
    start(keeper, ONE)
    path.write_text("oops: [")
    standing = keeper.standing()
    assert standing.version is None
    assert standing.problems == [f"{path}:1:8: expected the node content, but found '<stream end>'"]
    change = keeper.roll_back(1, reason="broken by hand", by=ADA)
    assert path.read_text() == ONE
    assert keeper.body(change.before) == "oops: ["
    assert history(keeper)[-1] == (1, 2, How.ROLLED_BACK, "ada", False)


def test_a_file_that_is_gone_is_made_again(keeper, path):
    start(keeper, ONE)
    path.unlink()
    assert keeper.standing().problems == [f"{path}: there is no such file"]
    keeper.roll_back(1, reason="deleted", by=ADA, expected="")
    assert path.read_text() == ONE


REFUSED = {
    "a text with problems": ({"body": "site: { nam: x }"}, InvalidConfiguration, "site.nam: is not a known key"),
    "no reason": ({"reason": " \n"}, MissingValue, "Say why"),
    "a reason without end": ({"reason": "x" * 501}, ValueError, "at most 500"),
    "what is there already": ({"body": ONE}, Conflict, "exactly that already"),
    "a file that was changed since": ({"expected": digest(TWO)}, Conflict, "changed since you looked"),
    "half a surrogate pair": ({"body": "site: { name: \ud800 }"}, InvalidConfiguration, "surrogate"),
    "a text without end": ({"body": "#" * 300_000}, InvalidConfiguration, "is longer than"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_changes_nothing(keeper, engine, path, what):
    start(keeper, ONE)
    before = everything(path, engine)
    changed, error, said = REFUSED[what]
    with pytest.raises(error, match=said):
        keeper.apply(**({"body": TWO, "reason": "because", "by": ADA, "expected": digest(ONE)} | changed))
    assert everything(path, engine) == before


def test_a_version_nobody_knows_cannot_be_put_back(keeper):
    with pytest.raises(NotFound):
        keeper.roll_back(7, reason="because", by=ADA)


def test_a_file_that_cannot_be_written_says_what_to_type_instead(keeper, engine, path, monkeypatch):
    start(keeper, ONE)
    start(keeper, TWO)
    before = everything(path, engine)
    monkeypatch.setattr(os, "access", lambda *_, **__: False)  # root may write anywhere
    with pytest.raises(FixedSiteFile, match="not writable") as refused:
        keeper.roll_back(1, reason="because", by=ADA)
    assert refused.value.commands[0].startswith("broker config rollback 1 --reason '…' --config ")
    assert everything(path, engine) == before
    assert "not writable" in keeper.standing().why_fixed


def test_a_disk_that_refuses_the_text_changes_nothing(keeper, engine, path, monkeypatch):
    start(keeper, ONE)
    before = everything(path, engine)

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("broker.files.replaceable.os.fsync", full)
    with pytest.raises(ConfigurationError, match=r"No space left on device\. It is as it was"):
        keeper.apply(TWO, reason="because", by=ADA)
    assert everything(path, engine) == before


def test_a_text_that_could_not_get_the_name_is_told_by_a_second_event(keeper, engine, path, monkeypatch):
    start(keeper, ONE)

    def busy(*_):
        raise OSError(errno.EBUSY, "Device or resource busy")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", busy)  # such as a single file mounted into a container
        with pytest.raises(ConfigurationError, match="Device or resource busy"):
            keeper.apply(TWO, reason="because", by=ADA)
    assert path.read_text() == ONE
    ((_, version, details),) = events(engine, "configuration not written")
    assert (version, details["problem"]) == (2, "Device or resource busy")
    assert keeper.standing().waiting is None
    # It counts for nothing: neither for the next start, nor for who tries again.
    start(keeper, ONE)
    assert [change.version for change in keeper.reports.configuration_changes()] == [2, 1]
    keeper.apply(TWO, reason="again", by=ADA)
    assert keeper.standing().waiting.version == 2


def test_an_editor_that_saves_in_the_last_moment_is_not_overwritten(keeper, engine, path, monkeypatch):
    start(keeper, ONE)
    write_down = keeper._write_down

    def and_somebody_saves(*args, **kwargs):
        change = write_down(*args, **kwargs)
        path.write_text("site: { name: Saved }\n")
        return change

    monkeypatch.setattr(keeper, "_write_down", and_somebody_saves)
    with pytest.raises(Conflict, match="this very moment"):
        keeper.apply(TWO, reason="because", by=ADA)
    assert path.read_text() == "site: { name: Saved }\n"
    assert len(events(engine, "configuration not written")) == 1


def test_what_a_crash_left_beside_the_file_goes_with_the_next_change(keeper, path):
    before = sorted(path.parent.iterdir())
    left = path.with_name(f".{path.name}.next")
    left.write_text("site: { name: Half a te")
    left.chmod(0o444)
    keeper.apply(TWO, reason="because", by=ADA)
    assert path.read_text() == TWO
    assert sorted(path.parent.iterdir()) == before


def test_a_link_stays_a_link(keeper, path):
    real = path.with_name("real.yaml")
    path.rename(real)
    path.symlink_to(real)
    keeper.apply(TWO, reason="because", by=ADA)
    assert path.is_symlink()
    assert real.read_text() == TWO


def test_secrets_are_not_shown_and_their_differences_are_named(keeper, path):
    before = "destinations:\n  ris: { kind: mllp, host: a, port: 1, contact: ann@ward }\n"
    after = before.replace("ann", "bob").replace("host: a", "host: b")
    path.write_text(before)
    start(keeper, before)
    trial = keeper.try_out(after)
    shown = json.dumps([(row.before, row.after) for row in trial.difference.rows])
    assert "ann" not in shown
    assert "bob" not in shown
    assert "host: b" in shown
    assert trial.difference.hidden == ["destinations.ris.contact"]


def test_what_a_reload_does_not_bring_into_force_is_named(keeper):
    assert keeper.try_out(TWO).difference.restart == ["listen.dicom.processes"]


def test_a_difference_in_comments_alone_is_told_apart_from_none(keeper):
    assert keeper.try_out(ONE).difference.is_same
    found = keeper.try_out(ONE.replace("first", "1st")).difference
    assert (found.rows, found.hidden, found.is_same) == ([], [], False)


def test_each_role_says_what_it_runs_on(keeper, engine, clock):
    start(keeper, ONE)
    for role, details in (("dicom", {"configuration": 1}), ("web", {}), ("hl7", {"configuration": 9})):
        beat(engine, role=role, host="h", pid=1, started_at=clock.now(), now=clock.now(), details=details)
    standing = keeper.standing()
    assert dict(standing.running) == {1: ["dicom"], 9: ["hl7"], None: ["web"]}
    assert [role.role for role in standing.behind] == ["hl7"]
    clock.advance(60)
    assert keeper.standing().roles == []


def test_nobody_is_told_to_reload_where_nobody_serves(keeper, engine):
    with pytest.raises(Conflict, match="restart each"):
        keeper.reload(by=ADA)
    assert events(engine, "configuration reload asked by a person") == []
