"""What peers answer is judged by the tables of PS3.7 annex C and PS3.8 section 9.3."""

import pytest

from broker.dicom.network.failures import (
    AssociationAborted,
    AssociationLost,
    AssociationRejected,
    ConnectFailed,
    ContextNotAccepted,
    Phase,
    TimedOut,
)
from broker.dicom.network.status import (
    BY_SERVICE,
    FailureClass,
    ServiceKind,
    StatusClass,
    class_of,
    judge_error,
    judge_status,
    outcome_of,
)
from broker.domain.delivery import Misconfigured, Rejected, RetryLater

TRANSIENT, CONFIG, PERMANENT = FailureClass.TRANSIENT, FailureClass.CONFIG, FailureClass.PERMANENT
STORAGE = ServiceKind.STORAGE


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (0x0000, StatusClass.SUCCESS),
        (0x0111, StatusClass.SUCCESS),
        (0xB000, StatusClass.WARNING),
        (0xB006, StatusClass.WARNING),
        (0xB007, StatusClass.WARNING),
        (0x0107, StatusClass.WARNING),
        (0xA700, StatusClass.FAILURE),
        (0xC211, StatusClass.FAILURE),
        (0x1234, StatusClass.FAILURE),
        (0xFF00, StatusClass.PENDING),
        (0xFE00, StatusClass.CANCEL),
    ],
)
def test_a_storage_status_has_its_class(status, expected):
    assert class_of(STORAGE, status) is expected
    assert (judge_status(STORAGE, status) is None) == (
        expected in (StatusClass.SUCCESS, StatusClass.WARNING, StatusClass.PENDING)
    )


@pytest.mark.parametrize(
    ("status", "failure_class", "max_tries"),
    [
        (0xA700, TRANSIENT, None),
        (0xA7FF, TRANSIENT, None),
        (0xA900, PERMANENT, None),
        (0xC000, TRANSIENT, 3),
        (0xCFFF, TRANSIENT, 3),
        (0x0110, TRANSIENT, 5),
        (0x0117, PERMANENT, None),
        (0x0122, PERMANENT, None),
        (0x0124, CONFIG, None),
        (0x0210, TRANSIENT, None),
        (0x0211, PERMANENT, None),
        (0x0213, TRANSIENT, None),
        (0xFE00, TRANSIENT, 3),
        (0x9999, TRANSIENT, 3),
    ],
)
def test_a_failed_storage_status_says_whether_time_heals_it(status, failure_class, max_tries):
    verdict = judge_status(STORAGE, status)
    assert verdict is not None
    assert (verdict.failure_class, verdict.max_tries) == (failure_class, max_tries)


def test_a_duplicate_is_success_for_storage_alone():
    assert class_of(STORAGE, 0x0111) is StatusClass.SUCCESS
    assert {class_of(kind, 0x0111) for kind in ServiceKind if kind is not STORAGE} == {StatusClass.FAILURE}


def test_a_full_print_queue_heals_and_an_image_too_large_does_not():
    assert judge_status(ServiceKind.PRINT, 0xC602).failure_class is TRANSIENT
    assert judge_status(ServiceKind.PRINT, 0xC603).failure_class is PERMANENT
    assert class_of(ServiceKind.PRINT, 0xB605) is StatusClass.WARNING


def test_a_sop_class_that_is_not_supported_fails_for_all_of_its_images():
    assert judge_status(STORAGE, 0x0122).whole_sop_class


@pytest.mark.parametrize(
    ("error", "failure_class", "max_tries", "then_config"),
    [
        (ConnectFailed(Phase.RESOLVE, "x"), TRANSIENT, None, False),
        (ConnectFailed(Phase.CONNECT, "x"), TRANSIENT, None, False),
        (ConnectFailed(Phase.TLS, "silence"), TRANSIENT, None, False),
        (ConnectFailed(Phase.TLS, "certificate", is_configuration=True), CONFIG, None, False),
        (AssociationRejected(2, 1, 1), TRANSIENT, None, False),
        (AssociationRejected(2, 3, 2), TRANSIENT, None, False),
        (AssociationRejected(1, 1, 1), TRANSIENT, 5, True),
        (AssociationRejected(1, 1, 2), CONFIG, None, False),
        (AssociationRejected(1, 1, 3), CONFIG, None, False),
        (AssociationRejected(1, 1, 7), CONFIG, None, False),
        (AssociationRejected(1, 2, 2), CONFIG, None, False),
        (AssociationRejected(1, 3, 1), TRANSIENT, None, False),
        (AssociationRejected(1, 9, 9), TRANSIENT, 5, True),
        (AssociationAborted(0, 0, phase=Phase.SEND), TRANSIENT, 10, False),
        (AssociationAborted(2, 0, phase=Phase.SEND), TRANSIENT, 10, False),
        (AssociationAborted(2, 6, phase=Phase.SEND), TRANSIENT, 3, False),
        (AssociationLost(Phase.SEND), TRANSIENT, None, False),
        (TimedOut(Phase.ANSWER), TRANSIENT, None, False),
        (ContextNotAccepted("1.2", None, result=1), TRANSIENT, 5, True),
        (ContextNotAccepted("1.2", None, result=3), PERMANENT, None, False),
        (ContextNotAccepted("1.2", "1.3", result=4), PERMANENT, None, False),
        (ContextNotAccepted("1.2", None, result=None), PERMANENT, None, False),
    ],
)
def test_an_association_that_failed_says_whether_time_heals_it(error, failure_class, max_tries, then_config):
    verdict = judge_error(error)
    assert (verdict.failure_class, verdict.max_tries, verdict.then_config) == (
        failure_class,
        max_tries,
        then_config,
    )


def test_a_verdict_becomes_the_outcome_of_a_delivery():
    later = outcome_of(judge_status(STORAGE, 0xA700), "status A700")
    assert later == RetryLater("the peer is out of resources (status A700)", first_delay_s=60.0)
    assert isinstance(outcome_of(judge_error(AssociationRejected(1, 1, 7))), Misconfigured)
    assert isinstance(outcome_of(judge_status(STORAGE, 0xA900)), Rejected)


def test_every_status_has_exactly_one_class_and_failures_have_a_verdict():
    for kind in ServiceKind:
        for status in range(0x10000):
            meaning = class_of(kind, status)
            fails = meaning in (StatusClass.FAILURE, StatusClass.CANCEL)
            assert (judge_status(kind, status) is not None) == fails
    assert set(BY_SERVICE) == set(ServiceKind)
