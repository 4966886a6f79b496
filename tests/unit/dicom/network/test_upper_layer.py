"""The upper layer, bytes in and events out, at both ends, for every split of the bytes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.dicom.network import pdu
from broker.dicom.network.pdu import AbortReason, AbortSource, Rejection
from broker.dicom.network.states import LocalMistake, Role, State
from broker.dicom.network.upper_layer import (
    AssociationAccepted,
    AssociationRefused,
    AssociationRequested,
    DataReceived,
    PduLimits,
    PeerAborted,
    PeerViolated,
    Released,
    ReleaseRequested,
    UpperLayer,
)
from tests.dicom_conversation import RELEASE, echo, message, request

REQUEST = pdu.parse_associate_request(request())
ACCEPT = pdu.encode_associate_accept(
    pdu.AssociateAccept(
        called_ae_title="BROKER",
        calling_ae_title="CT1",
        contexts=(pdu.AnsweredContext(1, 0, "1.2.840.10008.1.2"),),
        max_pdu_bytes=16384,
    )
)


def feed(upper, data):
    """Give bytes to an upper layer as a socket would, and collect copies of what happens."""
    events = []
    while data:
        space = upper.receive_space()
        assert len(space) > 0
        count = min(len(space), len(data))
        space[:count] = data[:count]
        upper.received(count)
        data = data[count:]
        while (event := upper.next_event()) is not None:
            if isinstance(event, DataReceived):
                event = (event.context_id, event.is_command, event.is_last, bytes(event.data))
            events.append(event)
    return events


def an_acceptor(state=State.ESTABLISHED, limits=None):
    upper = UpperLayer(Role.ACCEPTOR, limits)
    if state is not State.AWAITING_REQUEST:
        assert isinstance(feed(upper, request())[0], AssociationRequested)
    if state not in (State.AWAITING_REQUEST, State.AWAITING_LOCAL_ANSWER):
        upper.accept(ACCEPT)
    if state is State.AWAITING_RELEASE_REPLY:
        upper.release()
    if state is State.AWAITING_LOCAL_RELEASE:
        feed(upper, RELEASE)
    assert upper.state is state
    return upper


def a_requestor(state=State.ESTABLISHED):
    upper = UpperLayer(Role.REQUESTOR)
    upper.associate(REQUEST)
    if state is not State.AWAITING_ANSWER:
        feed(upper, ACCEPT)
    if state is State.AWAITING_RELEASE_REPLY:
        upper.release()
    assert upper.state is state
    return upper


def test_two_ends_talk_from_request_to_release():
    ours, theirs = UpperLayer(Role.REQUESTOR), UpperLayer(Role.ACCEPTOR)
    (asked,) = feed(theirs, ours.associate(REQUEST))
    assert pdu.parse_associate_request(asked.raw) == REQUEST
    (accepted,) = feed(ours, theirs.accept(ACCEPT))
    assert isinstance(accepted, AssociationAccepted)
    assert feed(theirs, message(echo()))[0][:3] == (1, True, True)
    assert feed(theirs, ours.release()) == [ReleaseRequested()]
    assert feed(ours, theirs.confirm_release()) == [Released()]
    assert (ours.state, theirs.state) == (State.IDLE, State.AWAITING_CLOSE)
    theirs.transport_closed()
    assert theirs.state is State.IDLE


def test_a_rejection_is_told():
    (refused,) = feed(a_requestor(State.AWAITING_ANSWER), pdu.encode_reject(Rejection(1, 1, 7)))
    assert refused == AssociationRefused(Rejection(1, 1, 7))


def test_releases_that_collide_end_in_order_at_both_ends():
    # PS3.8 9.2.3: the requestor answers first
    ours, theirs = a_requestor(), an_acceptor()
    from_us, from_them = ours.release(), theirs.release()
    assert feed(ours, from_them) == [ReleaseRequested()]
    assert feed(theirs, from_us) == [ReleaseRequested()]
    with pytest.raises(LocalMistake):
        theirs.confirm_release()
    first = ours.confirm_release()
    assert feed(theirs, first) == [ReleaseRequested()]
    assert feed(ours, theirs.confirm_release()) == [Released()]
    assert theirs.state is State.AWAITING_CLOSE


def test_data_that_crosses_our_release_is_still_told():
    upper = a_requestor(State.AWAITING_RELEASE_REPLY)
    assert feed(upper, message(echo()))[0][1] is True
    assert feed(upper, pdu.RELEASE_RP) == [Released()]


def test_data_may_follow_a_release_the_peer_asked_for_but_not_our_own():
    an_acceptor(State.AWAITING_LOCAL_RELEASE).data()
    with pytest.raises(LocalMistake):
        a_requestor(State.AWAITING_RELEASE_REPLY).data()


def test_an_abort_of_the_peer_says_who_and_why():
    assert feed(an_acceptor(), pdu.encode_abort(2, 6)) == [PeerAborted(2, 6)]


@pytest.mark.parametrize(
    ("state", "source", "reason"),
    [
        (State.AWAITING_REQUEST, AbortSource.SERVICE_USER, 0),
        (State.ESTABLISHED, AbortSource.SERVICE_PROVIDER, AbortReason.UNEXPECTED_PDU),
        (State.AWAITING_LOCAL_RELEASE, AbortSource.SERVICE_PROVIDER, AbortReason.UNEXPECTED_PDU),
    ],
)
def test_an_unexpected_pdu_is_aborted_as_the_table_says(state, source, reason):
    upper = an_acceptor(state)
    (violated,) = feed(upper, pdu.RELEASE_RP)
    assert violated == PeerViolated(
        f"RELEASE_RP is not expected in {state.value}", AbortReason.UNEXPECTED_PDU
    )
    assert upper.take_output() == pdu.encode_abort(source, reason)
    assert upper.take_output() == b""
    assert upper.state is State.AWAITING_CLOSE


def test_after_the_end_words_are_ignored_and_nonsense_is_aborted_again():
    # PS3.8 table 9-10, Sta13: AA-6 and AA-7
    upper = an_acceptor()
    upper.abort()
    assert feed(upper, RELEASE + message(echo())) == []
    assert upper.take_output() == b""
    assert feed(upper, request()) == []
    assert upper.take_output()[0] == pdu.PduType.ABORT
    assert feed(upper, b"\x77") == []
    assert upper.take_output()[0] == pdu.PduType.ABORT
    assert feed(upper, pdu.encode_abort(0, 0)) == [PeerAborted(0, 0)]
    assert upper.state is State.IDLE


@pytest.mark.parametrize("ask", ["release", "confirm_release", "data", "abort", "artim_expired"])
def test_what_we_may_not_do_raises_and_changes_nothing(ask):
    upper = UpperLayer(Role.REQUESTOR)
    with pytest.raises(LocalMistake):
        getattr(upper, ask)()
    assert upper.state is State.IDLE
    assert upper.take_output() == b""


def test_artim_ends_what_was_never_asked_and_what_is_never_closed():
    for state in (State.AWAITING_REQUEST, State.AWAITING_LOCAL_RELEASE):
        upper = an_acceptor(state)
        if state is State.AWAITING_LOCAL_RELEASE:
            upper.confirm_release()
        upper.artim_expired()
        assert upper.state is State.IDLE


pieces = st.lists(
    st.tuples(st.booleans(), st.booleans(), st.binary(min_size=1, max_size=3000)), min_size=1, max_size=6
)


@given(pieces, st.lists(st.integers(1, 2000), min_size=1, max_size=20), st.integers(16, 64))
@settings(max_examples=200, deadline=None)
def test_payload_survives_every_split_and_every_buffer(pieces, cuts, buffer_bytes):
    limits = PduLimits(idle_buffer_bytes=buffer_bytes, bulk_buffer_bytes=4 * buffer_bytes)
    upper = an_acceptor(limits=limits)
    stream = b"".join(
        pdu.data_header(1, (1 if is_command else 0) | (2 if is_last else 0), len(data)) + data
        for is_command, is_last, data in pieces
    )
    events, at = [], 0
    for cut in cuts * (len(stream) // sum(cuts) + 1):
        events += feed(upper, stream[at : at + cut])
        at += cut
    told, current = [], b""
    for _context, is_command, is_last, data in events:
        current += data
        if len(current) == len(pieces[len(told)][2]):
            told.append((is_command, is_last, current))
            current = b""
    assert told == pieces
    assert upper.is_between_pdus


def test_buffers_grow_for_bulk_and_are_given_back():
    upper = an_acceptor()
    small = len(upper.receive_space())
    feed(upper, pdu.data_header(1, 2, 500_000) + bytes(400_000))
    assert len(upper.receive_space()) > 10 * small
    feed(upper, bytes(100_000))
    upper.shrink()
    assert len(upper.receive_space()) == small


@given(st.binary(min_size=1, max_size=200))
@settings(max_examples=300, deadline=None)
def test_no_bytes_whatever_raise_anything(data):
    for upper in (an_acceptor(State.AWAITING_REQUEST), an_acceptor(), a_requestor(State.AWAITING_ANSWER)):
        feed(upper, data)
        assert upper.state in State


@given(st.lists(st.tuples(st.integers(1, 8), st.binary(max_size=12)), min_size=1, max_size=6))
@settings(max_examples=300, deadline=None)
def test_no_sequence_of_well_framed_pdus_raises_anything(frames):
    stream = b"".join(bytes((kind, 0)) + len(body).to_bytes(4, "big") + body for kind, body in frames)
    for upper in (an_acceptor(State.AWAITING_REQUEST), an_acceptor(), a_requestor(State.AWAITING_ANSWER)):
        feed(upper, stream)
        assert upper.state in State


@pytest.mark.parametrize(
    "last", [pdu.encode_reject(pdu.NO_REASON_GIVEN), pdu.encode_abort(0, 0)], ids=["rejected", "aborted"]
)
def test_what_follows_the_last_pdu_is_not_taken_for_the_length_of_another(last):
    upper = UpperLayer(Role.REQUESTOR)
    upper.associate(pdu.parse_associate_request(request()))
    for stuff in (last + b"\x04\x00\xfe\xde\x00\x00", b"\x04\x00\xfe\xde\x00\x00" * 100):
        space = upper.receive_space()
        space[: len(stuff)] = stuff
        upper.received(len(stuff))
        while upper.next_event() is not None:
            pass
        assert len(upper.receive_space()) <= upper.limits.idle_buffer_bytes
