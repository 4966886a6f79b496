"""Accounts, sessions and tokens, stored and found on both databases."""

from dataclasses import replace
from datetime import timedelta

import pytest

from broker.domain.access import Role
from broker.errors import Conflict, DuplicateKey, NotFound
from broker.workflow.accounts_port import Account, ApiToken
from tests.builders import NOW
from tests.doors import PASSWORD, TESTER, an_access

LATER = NOW + timedelta(hours=1)


@pytest.fixture
def uow(uow_factory):
    with uow_factory() as uow:
        yield uow


def test_an_account_is_found_by_its_name_and_changed(uow, reports):
    assert not uow.accounts.any()
    key = uow.accounts.add("ada", Role.VIEWER, "hash", now=NOW)
    stored = uow.accounts.find("ada")
    assert stored == Account(key, "ada", Role.VIEWER, "hash", False, NOW, NOW)
    assert uow.accounts.find("Ada") is None
    with pytest.raises(DuplicateKey), uow.savepoint():
        uow.accounts.add("ada", Role.ADMIN, "other", now=NOW)
    uow.accounts.change_role(key, Role.ADMIN)
    uow.accounts.change_password(key, "new", now=LATER)
    uow.accounts.signed_in(key, now=LATER)
    assert uow.accounts.count_admins() == 1
    uow.accounts.disable(key, disabled=True)
    assert uow.accounts.count_admins() == 0
    changed = replace(
        stored,
        role=Role.ADMIN,
        password_hash="new",
        is_disabled=True,
        password_changed_at=LATER,
        last_sign_in_at=LATER,
    )
    assert uow.accounts.find("ada") == changed
    assert not reports.has_accounts()
    uow.commit()
    assert reports.has_accounts()
    assert reports.accounts() == [changed]
    assert reports.accounts(since="ad") == [changed]
    assert reports.accounts(since="adb") == []
    assert (reports.account("ada"), reports.account("bob")) == (changed, None)


def test_a_session_is_found_by_the_hash_of_its_token_with_its_account_as_it_is_now(uow, reports):
    key = uow.accounts.add("ada", Role.VIEWER, "hash", now=NOW)
    uow.sessions.add(b"1" * 32, key, "2001:db8::1", now=NOW)
    uow.commit()
    session = reports.session(b"1" * 32)
    assert (session.name, session.role, session.address, session.seen_at) == (
        "ada",
        Role.VIEWER,
        "2001:db8::1",
        NOW,
    )
    assert reports.session(b"2" * 32) is None
    uow.sessions.touch(session.id, now=LATER)
    uow.sessions.hide_names(session.id, hide=True)
    uow.accounts.change_role(key, Role.ADMIN)
    uow.accounts.disable(key, disabled=True)
    uow.commit()
    assert reports.session(b"1" * 32) == replace(
        session, seen_at=LATER, hides_names=True, role=Role.ADMIN, is_disabled=True
    )
    with pytest.raises(DuplicateKey), uow.savepoint():
        uow.sessions.add(b"1" * 32, key, "a", now=NOW)


def test_sessions_end_one_all_the_oldest_and_those_that_ran_out(uow, reports):
    ada, bob = (uow.accounts.add(name, Role.VIEWER, "hash", now=NOW) for name in ("ada", "bob"))
    for number in range(5):
        uow.sessions.add(bytes([number]) * 32, ada, "a", now=NOW + timedelta(minutes=number))
    uow.sessions.add(b"b" * 32, bob, "b", now=LATER)
    uow.sessions.end(bytes([4]) * 32)
    uow.sessions.end(b"nobody")
    uow.sessions.keep_newest(ada, 2)
    uow.commit()
    left = [number for number in range(5) if reports.session(bytes([number]) * 32)]
    assert left == [2, 3]
    uow.sessions.forget(seen_before=NOW + timedelta(minutes=3), created_before=NOW)
    uow.commit()
    assert reports.session(bytes([2]) * 32) is None
    assert uow.sessions.end_all(ada) == 1
    uow.commit()
    assert reports.session(b"b" * 32) is not None


def test_a_token_is_found_by_its_hash_used_and_revoked(uow, reports):
    key = uow.api_tokens.add(b"t" * 32, "prometheus", Role.VIEWER, issued_by="ada", now=NOW, expires_at=LATER)
    uow.api_tokens.used(key, now=NOW)
    uow.commit()
    known = reports.api_token(b"t" * 32)
    assert known == ApiToken(key, "prometheus", Role.VIEWER, "ada", NOW, LATER, last_used_at=NOW)
    assert reports.api_token(b"u" * 32) is None
    uow.api_tokens.revoke(key, now=LATER)
    assert uow.api_tokens.get(key) == replace(known, revoked_at=LATER)
    with pytest.raises(NotFound):
        uow.api_tokens.get(key + 1)
    uow.commit()
    assert [token.revoked_at for token in reports.api_tokens()] == [LATER]
    assert reports.api_tokens(before=reports.api_tokens()[0].id) == []


def test_the_last_admin_stays(engine, uow_factory, clock, tmp_path):
    people = an_access(engine, uow_factory, clock, tmp_path).accounts
    people.add("ada", Role.ADMIN, PASSWORD, by=TESTER)
    for change in (
        lambda: people.disable("ada", by=TESTER),
        lambda: people.change_role("ada", Role.VIEWER, by=TESTER),
    ):
        with pytest.raises(Conflict, match="only admin"):
            change()
    people.add("bob", Role.ADMIN, PASSWORD, by=TESTER)
    assert people.disable("ada", by=TESTER)
    assert not people.disable("ada", by=TESTER)
    with pytest.raises(Conflict, match="only admin"):
        people.disable("bob", by=TESTER)
    with pytest.raises(DuplicateKey):
        people.add("BOB", Role.VIEWER, PASSWORD, by=TESTER)
    with pytest.raises(NotFound):
        people.disable("eve", by=TESTER)


def test_open_sessions_are_listed_newest_first_and_one_is_ended_alone(uow, reports):
    ada = uow.accounts.add("ada", Role.VIEWER, "hash", now=NOW)
    bob = uow.accounts.add("bob", Role.ADMIN, "hash", now=NOW)
    gone = uow.accounts.add("gone", Role.ADMIN, "hash", now=NOW)
    uow.accounts.disable(gone, disabled=True)
    for number, account in enumerate((ada, bob, ada, gone)):
        uow.sessions.add(bytes([number]) * 32, account, "192.0.2.1", now=NOW)
    uow.sessions.add(b"o" * 32, bob, "192.0.2.2", now=NOW - timedelta(hours=13))
    uow.commit()
    asked = {"seen_after": NOW - timedelta(minutes=15), "created_after": NOW - timedelta(hours=12)}
    found = reports.open_sessions(**asked)
    assert [one.name for one in found] == ["ada", "bob", "ada"]
    assert reports.open_sessions(**asked, before=found[0].id, limit=1) == [found[1]]
    assert uow.sessions.end_one(found[1].id) == (bob, "bob")
    assert uow.sessions.end_one(found[1].id) is None
    uow.commit()
    assert [one.id for one in reports.open_sessions(**asked)] == [found[0].id, found[2].id]
    assert {one.id for one in reports.sessions([one.id for one in found])} == {found[0].id, found[2].id}
