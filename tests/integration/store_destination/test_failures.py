"""The `dicom` destination is refused, left waiting, or let down by our own disk: whose fault it is, and what waits."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from dataclasses import replace

import pytest
from pydicom.uid import CTImageStorage, ImplicitVRLittleEndian, MRImageStorage

from broker.domain.delivery import Delivered, Misconfigured, Rejected, RetryLater
from tests.parcels import Ledger, a_parcel, an_image, an_item
from tests.ports import free_port

# ---- what peers answer ---------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [0x0000, 0xB000, 0xB006, 0xB007, 0x0111])
def test_success_and_the_listed_warnings_are_delivered(scp, destination_to, items, status):
    ledger = Ledger()
    outcome = destination_to(scp(lambda number, event: status).port).send(a_parcel(items(2)), ledger)
    assert isinstance(outcome, Delivered)
    assert ledger.delivered == [1, 2]
    assert ledger.results[0].wire_status == f"{status:04X}"


@pytest.mark.parametrize("status", [0xA900, 0xA9FF, 0x0117, 0x0120, 0x0212])
def test_a_permanent_refusal_is_one_items_and_the_others_go_on(scp, destination_to, items, status):
    peer = scp(lambda number, event: status if number == 2 else 0)
    ledger = Ledger()
    outcome = destination_to(peer.port).send(a_parcel(items(4)), ledger)
    assert isinstance(outcome, Rejected)
    assert f"{status:04X}" in outcome.reason
    assert ledger.delivered == [1, 3, 4]
    assert ledger.rejected == [2]


def test_a_class_not_supported_parks_the_class_without_asking_again(scp, destination_to, tmp_path):
    peer = scp(lambda number, event: 0x0122 if event.request.AffectedSOPClassUID == MRImageStorage else 0)
    classes = [CTImageStorage, MRImageStorage, MRImageStorage, CTImageStorage, MRImageStorage]
    parcel = [
        an_item(an_image(SOPClassUID=uid), tmp_path / "store", number) for number, uid in enumerate(classes)
    ]
    ledger = Ledger()
    assert isinstance(destination_to(peer.port).send(a_parcel(parcel), ledger), Rejected)
    assert ledger.delivered == [0, 3]
    assert ledger.rejected == [1, 2, 4]
    assert len(peer.received) == 3


@pytest.mark.parametrize(("status", "first_delay_s"), [(0xA700, 60), (0xA7FF, 60), (0x0213, None)])
def test_a_peer_out_of_resources_is_left_alone_and_progress_kept(
    scp, destination_to, items, status, first_delay_s
):
    peer = scp(lambda number, event: status if number == 3 else 0)
    ledger = Ledger()
    outcome = destination_to(peer.port).send(a_parcel(items(6)), ledger)
    assert isinstance(outcome, RetryLater)
    assert outcome.first_delay_s == first_delay_s
    assert ledger.delivered == [1, 2]
    assert ledger.rejected == []
    assert len(peer.received) == 3


@pytest.mark.parametrize(
    ("status", "max_tries"), [(0x0110, 5), (0xC000, 3), (0xFE00, 3), (0x9999, 3), (0xB123, 3)]
)
def test_a_failure_that_may_be_one_items_alone_does_not_hold_the_others(
    scp, destination_to, items, status, max_tries
):
    peer = scp(lambda number, event: status if number == 2 else 0)
    ledger = Ledger()
    outcome = destination_to(peer.port).send(a_parcel(items(4)), ledger)
    assert isinstance(outcome, RetryLater)
    assert outcome.max_tries == max_tries
    assert ledger.delivered == [1, 3, 4]
    assert ledger.rejected == []


def test_five_failures_in_a_row_are_no_accident(scp, destination_to, items):
    peer = scp(lambda number, event: 0x0110)
    ledger = Ledger()
    assert isinstance(destination_to(peer.port).send(a_parcel(items(20)), ledger), RetryLater)
    assert len(peer.received) == 5
    assert ledger.results == []


def test_not_authorised_is_a_matter_of_settings(scp, destination_to, items):
    ledger = Ledger()
    outcome = destination_to(scp(lambda number, event: 0x0124).port).send(a_parcel(items(2)), ledger)
    assert isinstance(outcome, Misconfigured)
    assert ledger.results == []


def test_a_wrong_ae_title_is_a_matter_of_settings(scp, destination_to, items):
    ledger = Ledger()
    destination = destination_to(scp(require_called=True).port, called_ae_title="WRONG")
    outcome = destination.send(a_parcel(items(1)), ledger)
    assert isinstance(outcome, Misconfigured)
    assert "called AE title" in outcome.reason
    assert not destination.check().ok
    assert ledger.results == []


def test_a_closed_port_is_tried_again(destination_to, items):
    ledger = Ledger()
    assert isinstance(destination_to(free_port()).send(a_parcel(items(1)), ledger), RetryLater)
    assert ledger.results == []


@pytest.mark.timeout(20)
def test_a_peer_that_accepts_and_says_nothing_is_given_up(destination_to, items):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        destination = destination_to(silent.getsockname()[1], timeouts={"association_s": 0.3})
        began = time.monotonic()
        outcome = destination.send(a_parcel(items(1)), Ledger())
    assert isinstance(outcome, RetryLater)
    assert "in time" in outcome.reason
    assert time.monotonic() - began < 15


def test_a_peer_that_never_answers_a_store_is_given_up(scp, destination_to, items):
    release = threading.Event()
    peer = scp(lambda number, event: 0 if number != 2 else release.wait(60) * 0)
    ledger = Ledger()
    outcome = destination_to(peer.port, timeouts={"response_s": 3}).send(a_parcel(items(3)), ledger)
    release.set()
    assert isinstance(outcome, RetryLater)
    assert ledger.delivered == [1]


# ---- our own disk --------------------------------------------------------------------------------------


def test_a_missing_and_a_shortened_file_refuse_their_items_alone(scp, destination_to, items, tmp_path):
    parcel = items(4)
    parcel[0] = replace(parcel[0], path=tmp_path / "gone.dcm")
    os.truncate(parcel[1].path, parcel[1].size_bytes - 10)
    ledger = Ledger()
    outcome = destination_to(scp().port).send(a_parcel(parcel), ledger)
    assert isinstance(outcome, Rejected)
    assert str(tmp_path) not in outcome.reason
    assert (ledger.rejected, ledger.delivered) == ([1, 2], [3, 4])


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_stored_file_that_cannot_be_opened_just_now_waits_and_the_others_go_on(
    scp, destination_to, items, unopenable, number
):
    parcel, ledger = items(3), Ledger()
    destination = destination_to(scp().port)
    with unopenable(parcel[0].path, number):
        outcome = destination.send(a_parcel(parcel), ledger)
    assert isinstance(outcome, RetryLater)
    assert outcome.ours
    assert (ledger.delivered, ledger.rejected) == ([2, 3], [])
    assert isinstance(destination.send(a_parcel(parcel[:1]), ledger), Delivered)


def test_a_disk_that_fails_in_the_middle_of_an_object_is_not_the_peers_fault(
    scp, destination_to, items, unopenable
):
    parcel, ledger = items(2), Ledger()
    peer = scp()
    destination = destination_to(peer.port)
    with unopenable(parcel[0].path, errno.EIO, when_read=True):
        outcome = destination.send(a_parcel(parcel), ledger)
    assert isinstance(outcome, RetryLater)
    assert outcome.ours
    assert (ledger.delivered, ledger.rejected) == ([2], [])
    assert peer.received == [parcel[1].sop_instance_uid]


def test_a_file_that_cannot_be_opened_to_be_encoded_anew_waits(scp, destination_to, tmp_path, unopenable):
    item, ledger = an_item(an_image(), tmp_path / "store", 1), Ledger()
    destination = destination_to(scp(contexts=[(CTImageStorage, [ImplicitVRLittleEndian])]).port)
    with unopenable(item.path, errno.EMFILE):
        outcome = destination.send(a_parcel([item]), ledger)
    assert isinstance(outcome, RetryLater)
    assert outcome.ours
    assert ledger.results == []
    assert isinstance(destination.send(a_parcel([item]), ledger), Delivered)
