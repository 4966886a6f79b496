"""The synthetic exam on the pages: started by a button, told hop by hop, and listed."""

import threading
from dataclasses import replace
from datetime import timedelta

import pytest

from broker.errors import DatabaseUnavailable
from broker.probe_now import ProbeNow
from broker.web.app import create_app
from broker.workflow.probe_port import Hop, ProbeRun
from tests.builders import NOW
from tests.doors import signed_in
from tests.integration.hospital_pages import press

WITHOUT_NAMES = ("order", "worklist", "begin", "image", "finish", "delivery")


def a_run(store, number=1, *, hops=(), ended=True, failed=None, began=NOW):
    run = ProbeRun(0, f"2.25.{number}", f"PROBE{number}", "ruiz", began)
    key = store(lambda uow: uow.probes.add(run))
    ended_at = began + timedelta(seconds=2) if ended else None
    store(lambda uow: uow.probes.keep(replace(run, id=key, hops=hops, ended_at=ended_at, failed_hop=failed)))
    return key


HELD = tuple(Hop(name, True, 0.25, f"{name} was taken") for name in WITHOUT_NAMES)
FAILED = (*HELD[:3], Hop("image", False, 1.5, "C-STORE was answered A700 <b>full</b>"))


@pytest.fixture
def browser(board):
    return signed_in(create_app(board), "operator")


def test_every_hop_is_told_with_its_time_and_the_one_that_failed_with_its_reason(browser, store):
    good = browser.get(f"/probe/{a_run(store, 1, hops=HELD)}").text
    assert "Every hop held, in 1.5 s" in good
    assert "delivery was taken" in good
    bad = browser.get(f"/probe/{a_run(store, 2, hops=FAILED, failed='image')}").text
    assert "It failed at the hop image" in bad
    assert "A700 &lt;b&gt;full&lt;/b&gt;" in bad
    assert bad.count("not tried") == 2
    both = browser.get("/probe").text
    assert "every hop held" in both
    assert "failed at the hop image" in both
    assert browser.get("/probe/99").status_code == 404
    assert browser.get("/api/probe/1").json()["hops"][0]["detail"] == "order was taken"


def test_one_that_runs_is_asked_for_again_until_it_has_ended(browser, store, clock):
    key = a_run(store, hops=HELD[:2], ended=False)
    running = browser.get(f"/probe/{key}/live").text
    assert 'hx-trigger="every 1s"' in running
    assert "hop 3 of 6" in running
    clock.advance(600)
    left = browser.get(f"/probe/{key}").text
    assert 'hx-trigger="every 1s"' not in left
    assert "did not come to its end" in left


def test_the_button_starts_one_and_shows_it(board, store):
    key, asked = a_run(store, hops=HELD), []
    operator = signed_in(
        create_app(replace(board, start_probe=lambda who: asked.append(who) or key)), "operator"
    )
    answer = press(operator, "/probe")
    assert (answer.status_code, answer.headers["location"]) == (303, f"/probe/{key}")
    assert asked == ["operator"]
    assert "Run one now" in operator.get("/probe").text
    assert "Run one now" not in signed_in(create_app(board), "viewer").get("/probe").text


class Prober:
    """Takes as long as a test wants."""

    def __init__(self):
        self.begun, self.may_end, self.ended = 0, threading.Event(), threading.Event()

    def begin(self, actor):
        self.begun += 1
        return ProbeRun(self.begun, "2.25.1", "P", actor, NOW)

    def finish(self, run):
        assert self.may_end.wait(30)
        self.ended.set()
        raise DatabaseUnavailable


def test_whoever_asks_while_one_runs_is_shown_that_and_a_failure_lets_the_next_begin():
    prober = Prober()
    now = ProbeNow(prober)
    assert [now.start("a"), now.start("b")] == [1, 1]
    prober.may_end.set()
    for thread in threading.enumerate():
        if thread.name == "probe":
            thread.join(30)
    assert now.start("c") == 2
