"""The `dicom` destination sends: every object once, over associations that are kept, lost and begun again."""

from __future__ import annotations

import threading

import pytest
from pynetdicom.sop_class import _STORAGE_CLASSES

from broker.domain.delivery import Delivered, RetryLater
from broker.errors import LeaseLost
from tests.integration.store_destination.archive import ALL_PLAIN, uids, wait_for
from tests.parcels import Ledger, a_parcel, an_image, an_item
from tests.ports import free_port

# ---- the plain path ------------------------------------------------------------------------------------


def test_objects_arrive_bit_for_bit_and_are_settled(scp, destination_to, items):
    peer = scp()
    parcel = items(3)
    ledger = Ledger()
    assert isinstance(destination_to(peer.port).send(a_parcel(parcel), ledger), Delivered)
    assert ledger.delivered == [1, 2, 3]
    assert {result.wire_status for result in ledger.results} == {"0000"}
    assert peer.received == uids(parcel)
    for item, (syntax, data) in zip(parcel, peer.data_sets, strict=True):
        assert syntax == item.transfer_syntax_uid
        assert data == item.path.read_bytes()[item.data_set_offset :]


def test_check_is_a_c_echo(scp, destination_to):
    assert destination_to(scp().port).check().ok
    nobody = destination_to(free_port()).check()
    assert not nobody.ok
    assert "cannot be reached" in nobody.detail


def test_an_association_is_kept_for_the_next_parcel_and_released_when_idle(scp, destination_to, items):
    peer = scp()
    patient = destination_to(peer.port, idle_s=100)
    for number in range(1, 6):
        assert isinstance(patient.send(a_parcel(items(1, first=number)), Ledger()), Delivered)
    assert peer.associations == 1
    patient.close()
    hasty = destination_to(peer.port, idle_s=0.1)
    assert isinstance(hasty.send(a_parcel(items(1, first=8)), Ledger()), Delivered)
    assert peer.associations == 2
    wait_for(lambda: not peer.server.active_associations)
    assert isinstance(hasty.send(a_parcel(items(1, first=9)), Ledger()), Delivered)
    assert peer.associations == 3


def test_close_releases_what_is_idle(scp, destination_to, items):
    peer = scp()
    destination = destination_to(peer.port, idle_s=100)
    destination.send(a_parcel(items(1)), Ledger())
    assert peer.server.active_associations
    destination.close()
    wait_for(lambda: not peer.server.active_associations)


def test_an_association_the_peer_closed_while_idle_is_nobodys_fault(scp, destination_to, items):
    peer = scp()
    destination = destination_to(peer.port, idle_s=100)
    destination.send(a_parcel(items(1)), Ledger())
    for association in peer.server.active_associations:
        association.abort()
    ledger = Ledger()
    assert isinstance(destination.send(a_parcel(items(2, first=2)), ledger), Delivered)
    assert ledger.delivered == [2, 3]


def test_a_new_association_after_max_per_association(scp, destination_to, items):
    peer = scp()
    assert isinstance(
        destination_to(peer.port, max_per_association=4).send(a_parcel(items(10)), Ledger()), Delivered
    )
    assert peer.associations == 3


def test_several_threads_send_at_once(scp, destination_to, items):
    peer = scp()
    destination = destination_to(peer.port)
    parcels = [items(5, first=10 * number) for number in range(1, 5)]
    ledgers = [Ledger() for _ in parcels]
    threads = [
        threading.Thread(target=destination.send, args=(a_parcel(parcel), ledger))
        for parcel, ledger in zip(parcels, ledgers, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(peer.received) == sorted(uid for parcel in parcels for uid in uids(parcel))
    assert all(len(ledger.delivered) == 5 for ledger in ledgers)


def test_more_classes_than_one_association_can_propose(scp, destination_to, tmp_path):
    classes = sorted(_STORAGE_CLASSES.values())[:150]
    peer = scp(contexts=[(uid, ALL_PLAIN) for uid in classes])
    parcel = [
        an_item(an_image(SOPClassUID=uid), tmp_path / "store", number) for number, uid in enumerate(classes)
    ]
    ledger = Ledger()
    assert isinstance(destination_to(peer.port).send(a_parcel(parcel), ledger), Delivered)
    assert len(ledger.delivered) == 150
    assert peer.associations == 3


# ---- what peers do -------------------------------------------------------------------------------------


def test_after_an_abort_at_100_of_300_the_retry_sends_only_the_200_that_are_left(scp, destination_to, items):
    def die_after_100(number, event):
        if number == 101 and not died:
            died.append(True)
            peer.refuses = True
            event.assoc.abort()
        return 0

    died = []
    peer = scp(die_after_100)
    everything = items(300, rows=8, columns=8)
    destination = destination_to(peer.port)
    first = Ledger()
    outcome = destination.send(a_parcel(everything), first)
    assert isinstance(outcome, RetryLater)
    assert first.delivered == list(range(1, 101))
    peer.refuses = False
    left = [item for item in everything if item.id not in first.delivered]
    second = Ledger()
    assert isinstance(destination.send(a_parcel(left, attempt=2), second), Delivered)
    assert second.delivered == list(range(101, 301))
    assert len(peer.received) == 301
    assert set(peer.received) == set(uids(everything))


def test_a_peer_that_aborts_now_and_then_still_gets_everything_at_once(scp, destination_to, items):
    def abort_every_tenth(number, event):
        if number % 10 == 0:
            event.assoc.abort()
        return 0

    ledger = Ledger()
    peer = scp(abort_every_tenth)
    assert isinstance(destination_to(peer.port).send(a_parcel(items(35)), ledger), Delivered)
    assert sorted(ledger.delivered) == list(range(1, 36))


def test_an_object_that_breaks_every_association_is_set_aside_and_the_others_go_on(
    scp, destination_to, items
):
    parcel = items(6)
    poison = parcel[2].sop_instance_uid

    def abort_on_poison(number, event):
        if event.request.AffectedSOPInstanceUID == poison:
            event.assoc.abort()
        return 0

    peer = scp(abort_on_poison)
    ledger = Ledger()
    outcome = destination_to(peer.port).send(a_parcel(parcel), ledger)
    assert isinstance(outcome, RetryLater)
    assert outcome.max_tries == 10
    assert ledger.delivered == [1, 2, 4, 5, 6]
    assert ledger.rejected == []
    assert peer.received.count(poison) == 2


def test_a_peer_that_aborts_everything_is_left_alone(scp, destination_to, items):
    peer = scp(lambda number, event: event.assoc.abort() or 0)
    ledger = Ledger()
    assert isinstance(destination_to(peer.port).send(a_parcel(items(50)), ledger), RetryLater)
    assert len(peer.received) == 3
    assert ledger.results == []


def test_a_lost_lease_stops_the_sending(scp, destination_to, items):
    peer = scp()
    with pytest.raises(LeaseLost):
        destination_to(peer.port).send(a_parcel(items(60)), Ledger(lose_after=1))
    assert len(peer.received) <= 40
