import threading
import time

from workers.leases import LeaseRenewer


def until(condition, within_s=5.0):
    began_s = time.monotonic()
    while not condition():
        assert time.monotonic() - began_s < within_s
        time.sleep(0.005)


def test_a_lease_is_renewed_while_the_block_runs_and_not_after():
    renewed = []
    keep = LeaseRenewer(interval_s=0.03)
    with keep(lambda: renewed.append(1) or True):
        until(lambda: len(renewed) >= 3)
    time.sleep(0.05)
    count = len(renewed)
    time.sleep(0.15)
    assert len(renewed) == count


def test_a_lost_lease_is_not_asked_for_again():
    asked = []
    keep = LeaseRenewer(interval_s=0.03)
    with keep(lambda: asked.append(1) and False):
        time.sleep(0.2)
    assert len(asked) == 1


def test_a_database_that_is_away_is_asked_again():
    asked = []

    def renew():
        asked.append(1)
        raise OSError

    keep = LeaseRenewer(interval_s=0.03, retry_s=0.02)
    with keep(renew):
        until(lambda: len(asked) >= 3)


def test_a_hold_without_end_is_given_up():
    asked = []
    keep = LeaseRenewer(interval_s=0.03, max_hold_s=0.1)
    with keep(lambda: asked.append(1) or True):
        time.sleep(0.3)
    assert 2 <= len(asked) <= 4


def test_one_thread_renews_for_all():
    first, second = [], []
    keep = LeaseRenewer(interval_s=0.03)
    with (
        keep(lambda: first.append(threading.get_ident()) or True),
        keep(lambda: second.append(threading.get_ident()) or True),
    ):
        until(lambda: len(first) >= 2 and len(second) >= 2)
    assert len({*first, *second}) == 1


def test_what_is_given_up_is_released_once_the_database_takes_it():
    asked = []

    def release():
        asked.append(1)
        if len(asked) < 3:
            raise OSError

    keep = LeaseRenewer(interval_s=0.03, release_s=0.02)
    keep.give_up(release)
    until(lambda: len(asked) == 3)
    time.sleep(0.1)
    assert len(asked) == 3
