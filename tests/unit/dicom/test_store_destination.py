"""What the storage sender decides, without a peer: proposals, the pool, and what an answer means."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless

from broker.dicom.destinations.associations import AssociationPool, proposals_for
from broker.dicom.destinations.store import StoreOptions, Transcode
from broker.dicom.destinations.store_run import StoreRun
from broker.dicom.network.failures import ConnectFailed, Phase
from broker.dicom.network.status import judge_error
from broker.domain.delivery import Delivered, Misconfigured, Rejected, RetryLater
from broker.workflow.clock import SystemClock
from broker.workflow.progress import Progress
from tests.parcels import Ledger, an_image, an_item

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT, IMPLICIT, J2K = str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian), str(JPEG2000Lossless)


def as_text(proposals):
    return [(one.abstract_syntax, one.transfer_syntaxes) for one in proposals]


def test_each_stored_syntax_is_proposed_alone_with_one_plain_fallback_per_class():
    proposals, covered = proposals_for([(CT, J2K), (CT, EXPLICIT), (MR, J2K)], may_decompress=True)
    assert as_text(proposals) == [
        (CT, (J2K,)),
        (CT, (EXPLICIT,)),
        (CT, (IMPLICIT,)),
        (MR, (J2K,)),
        (MR, (EXPLICIT, IMPLICIT)),
    ]
    assert covered == {(CT, J2K), (CT, EXPLICIT), (MR, J2K)}


def test_without_leave_to_decompress_compressed_objects_get_no_fallback():
    proposals, _ = proposals_for([(CT, J2K), (MR, EXPLICIT)], may_decompress=False)
    assert as_text(proposals) == [(CT, (J2K,)), (MR, (EXPLICIT,)), (MR, (IMPLICIT,))]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([f"1.2.{n}" for n in range(90)]),
            st.sampled_from([EXPLICIT, IMPLICIT, J2K, "1.2.3"]),
        ),
        min_size=1,
        max_size=400,
    ),
    st.booleans(),
)
def test_never_more_than_128_contexts_and_always_the_first_pair(pairs, may_decompress):
    proposals, covered = proposals_for(pairs, may_decompress=may_decompress)
    assert 1 <= len(proposals) <= 128
    assert pairs[0] in covered
    offered = {(one.abstract_syntax, syntax) for one in proposals for syntax in one.transfer_syntaxes}
    assert covered <= offered


class FakeAssociation:
    """Knows whether it is open."""

    def __init__(self):
        self.is_open = True
        self.contexts = ()

    def release(self):
        self.is_open = False

    def abort(self):
        self.is_open = False


@pytest.fixture
def opened():
    return []


@pytest.fixture
def pool(opened):
    pool = a_pool(opened, idle_s=60)
    yield pool
    pool.close()


def a_pool(opened, *, idle_s):
    def open_(proposals):
        opened.append(FakeAssociation())
        return opened[-1]

    return AssociationPool(open_, SystemClock(), idle_s=idle_s, may_decompress=True)


def test_an_association_is_lent_to_one_at_a_time(pool, opened):
    first = pool.take((CT, EXPLICIT), [])
    second = pool.take((CT, EXPLICIT), [])
    assert first is not second
    pool.give_back(first)
    assert pool.take((CT, EXPLICIT), []) is first
    assert len(opened) == 2


def test_an_association_without_the_context_is_not_lent(pool, opened):
    pool.give_back(pool.take((CT, EXPLICIT), []))
    kept = pool.take((MR, EXPLICIT), [])
    assert len(opened) == 2
    assert {(CT, EXPLICIT), (MR, EXPLICIT)} <= kept.pairs


def test_a_closed_association_is_not_kept(pool, opened):
    kept = pool.take((CT, EXPLICIT), [])
    kept.association.abort()
    pool.give_back(kept)
    pool.take((CT, EXPLICIT), [])
    assert len(opened) == 2


def test_idle_associations_are_released_and_what_comes_back_late_too(opened):
    pool = a_pool(opened, idle_s=0.05)
    pool.give_back(pool.take((CT, EXPLICIT), []))
    deadline = time.monotonic() + 30
    while opened[0].is_open and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not opened[0].is_open
    late = pool.take((CT, EXPLICIT), [])
    pool.close()
    pool.give_back(late)
    assert not late.association.is_open


@pytest.fixture
def run(pool):
    ledger = Ledger()
    run = StoreRun(contexts=(), progress=Progress(ledger, SystemClock()), pool=pool, max_per_association=100)
    return run, ledger


@pytest.fixture
def item(tmp_path):
    return an_item(an_image(), tmp_path)


def test_every_status_is_delivered_rejected_or_left_waiting_with_a_reason(pool, item):
    for status in range(0x10000):
        ledger = Ledger()
        run = StoreRun(
            contexts=(), progress=Progress(ledger, SystemClock()), pool=pool, max_per_association=9
        )
        kept = run.association(item)
        outcome = run.outcome(run.answered(item, kept, status))
        run.progress.flush()
        kept.association.is_open = True
        run.give_back()
        if status in {0x0000, 0xB000, 0xB006, 0xB007, 0x0111}:
            assert isinstance(outcome, Delivered)
            assert ledger.delivered == [item.id]
        else:
            assert isinstance(outcome, RetryLater | Rejected | Misconfigured), f"{status:04X}"
            assert ledger.delivered == []
            assert ledger.rejected == ([item.id] if isinstance(outcome, Rejected) else [])
            assert outcome.reason


def test_a_broken_association_is_forgotten_after_a_success(run, item):
    run, _ = run
    verdict = judge_error(ConnectFailed(Phase.CONNECT, "gone"))
    kept = run.association(item)
    for _ in range(10):
        assert run.broken(verdict, "x", is_last_try=False) is None
        assert run.broken(verdict, "x", is_last_try=False) is None
        assert run.answered(item, kept, 0) is None
    run.broken(verdict, "x", is_last_try=False)
    run.broken(verdict, "x", is_last_try=False)
    assert isinstance(run.broken(verdict, "x", is_last_try=False), RetryLater)


def test_options_are_strict_and_documented():
    base = {"host": "pacs", "port": 104, "called_ae_title": "PACS"}
    assert StoreOptions.model_validate(base).transcode is Transcode.WHEN_REFUSED
    for wrong in (
        {"port": 0},
        {"called_ae_title": "MORE THAN SIXTEEN CHARACTERS"},
        {"hots": "x"},
        {"timeouts": {"connect_s": 0}},
        {"tls": {"certificat": "x"}},
        {"max_per_association": 0},
    ):
        with pytest.raises(ValidationError):
            StoreOptions.model_validate({**base, **wrong})
    assert all(field.description for field in StoreOptions.model_fields.values())
