"""Sharing commits between threads: everything once, in batches, and every failure where it belongs."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import pytest

from broker.dicom.services.group_commit import GroupCommit
from broker.errors import DatabaseUnavailable


def in_threads(call, items, *, has_begun: threading.Event) -> dict[int, object]:
    """Submit items from a thread each, the first one alone until its commit has begun; answer what each got."""
    answers: dict[int, object] = {}

    def submit(item: int) -> None:
        try:
            answers[item] = call(item)
        except Exception as error:
            answers[item] = error

    threads = [threading.Thread(target=submit, args=(item,)) for item in items]
    threads[0].start()
    assert has_begun.wait(30)
    for thread in threads[1:]:
        thread.start()
    for thread in threads:
        thread.join(30)
    return answers


class Recording:
    """Commits batches; the first one waits until the others have queued up."""

    def __init__(
        self, *, waiting_for: int, bad: frozenset[int] = frozenset(), error: type[Exception] = ValueError
    ):
        self.batches: list[list[int]] = []
        self.has_begun = threading.Event()
        self.group: GroupCommit[int, int] = GroupCommit(self.commit, max_batch=8)
        self.waiting_for = waiting_for
        self.bad = bad
        self.error = error

    def submit_all(self, count: int) -> dict[int, object]:
        return in_threads(self.group.submit, range(count), has_begun=self.has_begun)

    def commit(self, batch: Sequence[int]) -> list[int]:
        if not self.batches:
            self.batches.append(list(batch))
            self.has_begun.set()
            while len(self.group._waiting) < self.waiting_for:
                time.sleep(0.001)
        else:
            self.batches.append(list(batch))
        if self.bad & set(batch):
            raise self.error
        return [item * 10 for item in batch]


def test_alone_nobody_waits_for_company() -> None:
    group: GroupCommit[int, int] = GroupCommit(lambda batch: [item + 1 for item in batch])
    assert [group.submit(item) for item in range(5)] == [1, 2, 3, 4, 5]


def test_those_who_wait_are_committed_together_and_answered_each_its_own() -> None:
    recording = Recording(waiting_for=19)
    answers = recording.submit_all(20)
    assert answers == {item: item * 10 for item in range(20)}
    assert sorted(item for batch in recording.batches for item in batch) == list(range(20))
    assert [len(batch) for batch in recording.batches] == [1, 8, 8, 3]


def test_one_bad_item_does_not_take_its_neighbours_with_it() -> None:
    recording = Recording(waiting_for=6, bad=frozenset({3}))
    answers = recording.submit_all(7)
    assert isinstance(answers.pop(3), ValueError)
    assert answers == {item: item * 10 for item in (0, 1, 2, 4, 5, 6)}


def test_without_a_database_everybody_is_told_and_nobody_tries_again() -> None:
    recording = Recording(waiting_for=5, bad=frozenset(range(6)), error=DatabaseUnavailable)
    answers = recording.submit_all(6)
    assert all(isinstance(answer, DatabaseUnavailable) for answer in answers.values())
    assert len(recording.batches) == 2
    recording.bad = frozenset()
    assert recording.group.submit(7) == 70


def test_a_failure_reaches_the_caller_as_it_is() -> None:
    def fail(batch: Sequence[int]) -> list[int]:
        raise KeyError(batch[0])

    with pytest.raises(KeyError, match="1"):
        GroupCommit(fail).submit(1)
