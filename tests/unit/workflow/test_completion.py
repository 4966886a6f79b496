"""A series that is reported complete does not wait for its quiet period."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.dicom.objects.answers import WorklistEncoder
from broker.domain.delivery import DeliveryState as S
from broker.domain.steps import PerformedStatus
from broker.workflow.completion import release_complete_series
from broker.workflow.procedure_steps import (
    PerformedItem,
    PerformedState,
    PerformedWork,
    update_performed_step,
)
from broker.workflow.routing import route_received
from broker.workflow.wake_ups import Task
from tests.builders import NOW, a_performed_step
from tests.unit.workflow.routed_images import ROUTES, SERIES, STUDY, an_image, deliveries, store


def finished(uow, *uids: str, status=PerformedStatus.COMPLETED) -> None:
    step = replace(a_performed_step(), status=status, series={SERIES: uids})
    uow.performed.add(step, now=NOW)


def test_a_finished_performed_step_that_lists_all_images_shortens_the_wait(
    uow_factory, clock, queue, policy_of
) -> None:
    images = [an_image(1), an_image(2)]
    with uow_factory() as uow:
        finished(uow, *(image.sop_instance_uid for image in images))
        uow.commit()
    policy = policy_of(ROUTES[0])
    (first,) = store(uow_factory, images[0])
    route_received(uow_factory, clock, policy)
    (waiting,) = deliveries(uow_factory, first)
    assert waiting.state is S.COLLECTING
    store(uow_factory, images[1])
    route_received(uow_factory, clock, policy)
    (ready,) = deliveries(uow_factory, first)
    assert (ready.state, ready.due_at, ready.items) == (S.PENDING, clock.now(), 2)
    assert queue.ids(Task.DELIVER) == [ready.id]


def test_the_performed_step_may_finish_after_the_last_image(uow_factory, clock, policy_of) -> None:
    (key,) = store(uow_factory, an_image())
    route_received(uow_factory, clock, policy_of(ROUTES[0]))
    with uow_factory() as uow:
        finished(uow, an_image().sop_instance_uid, status=PerformedStatus.DISCONTINUED)
        assert len(release_complete_series(uow, STUDY, now=clock.now())) == 1
        assert release_complete_series(uow, STUDY, now=clock.now()) == []
        uow.commit()
    assert deliveries(uow_factory, key)[0].state is S.PENDING


def test_a_series_leaves_when_its_step_is_reported_finished(uow_factory, clock, queue, policy_of) -> None:
    (key,) = store(uow_factory, an_image())
    route_received(uow_factory, clock, policy_of(ROUTES[0]))
    listed = {SERIES: (an_image().sop_instance_uid,)}
    items = (PerformedItem(study_instance_uid=STUDY),)
    state = PerformedState(PerformedStatus.COMPLETED, b"", items=items, series=listed)

    class Finishes:
        def apply_to(self, data_set: bytes) -> PerformedState:
            return state

    with uow_factory() as uow:
        step = uow.performed.add(a_performed_step(series={}), now=NOW)
        uow.commit()
    queue.take()
    with uow_factory() as uow:
        update_performed_step(PerformedWork(uow, clock, WorklistEncoder()), step.sop_instance_uid, Finishes())
        uow.commit()
    (delivery,) = deliveries(uow_factory, key)
    assert delivery.state is S.PENDING
    assert queue.ids(Task.DELIVER) == [delivery.id]


@pytest.mark.parametrize(
    ("status", "listed"),
    [
        (PerformedStatus.IN_PROGRESS, ("1.2.826.0.2.1",)),
        (PerformedStatus.COMPLETED, ("1.2.826.0.2.1", "1.2.826.0.2.2")),
        (PerformedStatus.COMPLETED, ("1.2.826.0.2.1", "1.2.826.0.2.5")),
        (PerformedStatus.COMPLETED, ()),
    ],
)
def test_a_step_in_progress_or_with_missing_images_shortens_nothing(
    uow_factory, clock, policy_of, status, listed
) -> None:
    (key,) = store(uow_factory, an_image(1))
    route_received(uow_factory, clock, policy_of(ROUTES[0]))
    store(uow_factory, an_image(5))  # here, but nobody has routed it yet
    with uow_factory() as uow:
        finished(uow, *listed, status=status)
        assert release_complete_series(uow, STUDY, now=clock.now()) == []
        uow.commit()
    assert deliveries(uow_factory, key)[0].state is S.COLLECTING
