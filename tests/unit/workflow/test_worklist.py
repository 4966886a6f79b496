from datetime import timedelta

import pytest

from broker.domain.devices import DeviceProfile
from broker.domain.matching import Key, StartCriterion, TextCriterion, WorklistQuery, view_of
from broker.domain.steps import OFFERED_BY_DEFAULT, StepStatus
from broker.workflow.worklist import Answer, Exclusion, TooManyAnswers, Visibility, Worklist, is_visible
from tests.worklist_database import StillClock
from tests.worklist_entries import an_entry

CT = DeviceProfile(modalities=("CT",))
NOW = StillClock().now()


class Reader:
    """Answers every entry it has: the widest superset there can be."""

    def __init__(self, *entries):
        self.entries = entries
        self.asked = []
        self.taken = 0

    def candidates(self, query, visibility):
        self.asked.append((query, visibility))
        for entry in self.entries:
            self.taken += 1
            yield Answer(entry.step.id, 0, b""), view_of(entry)

    def near(self, query, *, limit):
        return [(entry, NOW) for entry in self.entries]


def query(**keys):
    return WorklistQuery(tuple(TextCriterion.parse(Key[key], value) for key, value in keys.items()))


def found(reader, asked, device=CT):
    return [answer.step for answer in Worklist(reader, StillClock()).find(asked, device)]


def test_matching_decides_whatever_the_database_offers():
    reader = Reader(an_entry(1), an_entry(2, modality="MR"), an_entry(3))
    assert found(reader, query(MODALITY="CT")) == [1, 3]
    assert found(reader, query(MODALITY="CT", ACCESSION_NUMBER="A3")) == [3]


def test_a_query_without_status_means_what_can_still_be_done():
    reader = Reader()
    found(reader, query())
    ((_, visibility),) = reader.asked
    assert visibility.statuses == OFFERED_BY_DEFAULT
    assert visibility.started_since == NOW - timedelta(hours=4)
    assert visibility.started_modalities == ("CT",)


def test_a_device_of_unknown_modality_sees_nothing_that_has_started():
    reader = Reader()
    found(reader, query(), DeviceProfile())
    assert reader.asked[0][1].started_since is None


def test_named_statuses_are_meant_exactly_and_held_is_never_among_them():
    reader = Reader()
    found(reader, WorklistQuery((), frozenset({StepStatus.HELD, StepStatus.STARTED})))
    assert reader.asked[0][1] == Visibility(frozenset({StepStatus.STARTED}))


def test_a_cap_cuts_after_the_first_and_takes_no_more_than_it_needs():
    reader = Reader(*(an_entry(n) for n in range(1, 100)))
    assert found(reader, query(), DeviceProfile(max_results=3)) == [1, 2, 3]
    assert reader.taken == 4


def test_a_refusal_over_the_limit_comes_before_any_answer():
    answers = Reader(*(an_entry(n) for n in range(1, 5)))
    with pytest.raises(TooManyAnswers):
        Worklist(answers, StillClock()).find(query(), DeviceProfile(max_results=3, refuses_over_limit=True))


def test_only_a_query_without_any_value_is_guarded():
    guarded = DeviceProfile(guards_broad_queries=True)
    lists = Worklist(Reader(), StillClock())
    (criterion,) = lists.effective(query(), guarded).criteria
    assert isinstance(criterion, StartCriterion)
    assert f"{criterion.dates.first:%Y%m%d}-{criterion.dates.last:%Y%m%d}" == "20261120-20261122"
    asked = query(MODALITY="CT")
    assert lists.effective(asked, guarded) is asked


def test_near_misses_come_closest_first_with_their_reasons():
    reader = Reader(
        an_entry(1, modality="MR", status=StepStatus.COMPLETED), an_entry(2, modality="MR"), an_entry(3)
    )
    misses = Worklist(reader, StillClock()).explain(query(MODALITY="CT"), CT)
    assert [miss.entry.step.id for miss in misses] == [2, 1]
    assert misses[0].reasons == ((Exclusion.KEY, "Modality is MR, asked for CT"),)
    assert (Exclusion.STATUS, "the step is COMPLETED") in misses[1].reasons


@pytest.mark.parametrize(
    ("status", "modality", "age", "expected"),
    [
        (StepStatus.READY, "CT", timedelta(days=900), True),
        (StepStatus.STARTED, "CT", timedelta(hours=3), True),
        (StepStatus.STARTED, "CT", timedelta(hours=5), False),
        (StepStatus.STARTED, "MR", timedelta(hours=3), False),
        (StepStatus.COMPLETED, "CT", timedelta(0), False),
        (StepStatus.DISCONTINUED, "CT", timedelta(0), False),
    ],
)
def test_what_a_device_sees_depends_on_status_modality_and_age(status, modality, age, expected):
    visibility = Worklist(Reader(), StillClock()).visibility(query(), CT)
    assert is_visible(an_entry(1, status=status, modality=modality), NOW - age, visibility) is expected
