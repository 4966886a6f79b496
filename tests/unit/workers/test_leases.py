"""Leases are renewed while their block runs, asked for again while the database is away, and given up in time."""

import threading

import pytest

from workers.leases import LeaseRenewer


class Hand:
    """A clock moved by hand, and a renewer that is turned by it."""

    def __init__(self, **limits):
        self.at_s = 100.0
        self.started = []
        self.keep = LeaseRenewer(monotonic=lambda: self.at_s, start=self.started.append, **limits)

    def on(self, seconds):
        self.at_s += seconds
        return self.keep.turn()


def test_a_lease_is_renewed_while_the_block_runs_and_not_after():
    renewed = []
    hand = Hand(interval_s=20)
    with hand.keep(lambda: renewed.append(1) or True):
        assert hand.on(19) == pytest.approx(1)
        assert renewed == []
        for times in (1, 2, 3):
            assert hand.on(20) == pytest.approx(20)
            assert len(renewed) == times
    assert hand.on(100) is None
    assert len(renewed) == 3


def test_a_lost_lease_is_not_asked_for_again():
    asked = []
    hand = Hand(interval_s=20)
    with hand.keep(lambda: asked.append(1) and False):
        assert hand.on(20) is None
        hand.on(100)
    assert len(asked) == 1


def test_a_database_that_is_away_is_asked_again_sooner():
    asked = []

    def renew():
        asked.append(1)
        raise OSError

    hand = Hand(interval_s=20, retry_s=5)
    with hand.keep(renew):
        assert hand.on(20) == pytest.approx(5)
        assert hand.on(5) == pytest.approx(5)
        assert len(asked) == 2


def test_a_hold_without_end_is_given_up():
    asked = []
    hand = Hand(interval_s=20, max_hold_s=70)
    with hand.keep(lambda: asked.append(1) or True):
        for _ in range(10):
            hand.on(20)
    assert len(asked) == 3


def test_what_is_given_up_is_released_once_the_database_takes_it():
    asked = []

    def release():
        asked.append(1)
        if len(asked) < 3:
            raise OSError

    hand = Hand(interval_s=20, release_s=1)
    hand.keep.give_up(release)
    assert hand.on(0) == pytest.approx(1)
    assert hand.on(1) == pytest.approx(1)
    assert hand.on(1) is None
    assert len(asked) == 3


def test_one_thread_renews_for_all_and_hears_of_a_lease_while_it_waits():
    keep = LeaseRenewer(interval_s=0.0)
    threads = set()

    def renewed_once(done):
        threads.add(threading.get_ident())
        done.set()
        return False

    first, second = threading.Event(), threading.Event()
    with keep(lambda: renewed_once(first)):
        assert first.wait(20)
        with keep(lambda: renewed_once(second)):
            assert second.wait(20)
    assert len(threads) == 1
    assert threading.get_ident() not in threads
