"""Guessing passwords: it gets slower, costs what the right one costs, and keeps nobody else out."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from broker.errors import OutOfResources
from tests.broker_process import wait_until
from tests.doors import PASSWORD, a_browser, an_access, quick_hasher, sign_in, with_accounts
from tests.integration.hospital_pages import events


def test_who_guesses_waits_longer_and_longer_and_the_right_password_does_not_help(app, clock):
    browser = a_browser(app)
    for _ in range(5):
        assert sign_in(browser, "admin", "guess guess guess").status_code == 403
    waits = []
    for _ in range(3):
        refused = sign_in(browser, "admin", PASSWORD)
        assert refused.status_code == 429
        waits.append(int(refused.headers["retry-after"]))
        clock.advance(waits[-1])
        assert sign_in(browser, "admin", "guess guess guess").status_code == 403
    assert waits == [13, 25, 49]
    clock.advance(15 * 60)
    assert sign_in(browser, "admin", PASSWORD).status_code == 303


def test_a_hundred_guesses_at_once_are_a_hundred(app, board):
    def guess(_):
        try:
            board.access.sign_in.sign_in("admin", "guess guess guess", address="203.0.113.9")
        except Exception as error:
            return type(error).__name__

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(guess, range(100)))
    assert outcomes.count("NotAllowed") <= 5
    assert len(events(board, "sign-in refused")) <= 5, "what is written is bounded too"


def test_guessing_from_many_addresses_is_slowed_and_does_not_keep_the_person_out(board, clock):
    door = board.access.sign_in
    assert door.sign_in("admin", PASSWORD, address="198.51.100.1")
    let_in = 0
    for number in range(200):
        try:
            door.sign_in("admin", "guess guess guess", address=f"203.0.113.{number}")
        except Exception as error:
            let_in += type(error).__name__ == "NotAllowed"
    assert let_in == 29, "and the one who came first"
    assert door.sign_in("admin", PASSWORD, address="198.51.100.1"), "from where the person always comes"


def test_many_names_from_one_address_are_slowed(board):
    refused = []
    for number in range(40):
        try:
            board.access.sign_in.sign_in(f"user{number}", PASSWORD, address="203.0.113.5")
        except Exception as error:
            refused.append(type(error).__name__)
    assert refused.count("NotAllowed") == 20


def test_a_name_nobody_has_is_not_kept(app, board):
    sign_in(a_browser(app), "my-own-secret-password", "x")
    (event,) = events(board, "sign-in refused")
    assert event["actor"] == "nobody known"
    assert "my-own-secret" not in json.dumps(event["details"])


def test_an_unknown_name_is_hashed_for_as_a_known_one(sqlite_engine, sqlite_uow_factory, clock, tmp_path):
    hasher = quick_hasher()
    asked = []
    plain = hasher.verify
    hasher.verify = lambda kept, typed: asked.append(kept) or plain(kept, typed)
    access = with_accounts(an_access(sqlite_engine, sqlite_uow_factory, clock, tmp_path, hasher=hasher))
    for name in ("admin", "nobody", "", "b" * 300):
        with pytest.raises(Exception, match="is not right"):
            access.sign_in.sign_in(name, "guess guess guess", address="a")
    parameters = {kept.rsplit("$", 2)[0] for kept in asked}
    assert (len(asked), len(parameters)) == (4, 1)


def test_hashing_is_bounded_and_who_comes_too_much_is_refused_at_once():
    from broker.passwords import Argon2idHasher

    hasher = Argon2idHasher(at_once=1, waiting=1)
    hasher._argon2 = Slow()
    answers = []

    def ask():
        try:
            answers.append(hasher.hash("x"))
        except OutOfResources:
            answers.append("refused")

    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    wait_until(lambda: answers.count("refused") == 3, what="the refusal of who finds no place")
    Slow.go.set()
    for thread in threads:
        thread.join(20)
    assert sorted(answers) == ["hash"] * 2 + ["refused"] * 3


class Slow:
    go = threading.Event()

    def hash(self, password):
        assert self.go.wait(20)
        return "hash"
