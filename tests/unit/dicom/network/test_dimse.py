"""Our command sets are those of the reference codec, and hostile ones are refused."""

import struct
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pynetdicom.dsutils import decode as reference_decode
from pynetdicom.dsutils import encode as reference_encode

from broker.dicom.network.dimse import (
    Command,
    CommandCollector,
    CommandField,
    MalformedCommand,
    decode_command,
    encode_command,
    largest_payload,
    message_pdus,
)
from broker.dicom.network.requests import encoded_response, response_command
from broker.dicom.network.service import Response
from broker.dicom.network.upper_layer import DataReceived

numbers = st.none() | st.integers(0, 65535)
uids = st.none() | st.lists(st.integers(0, 99999), min_size=1, max_size=8).map(
    lambda p: ".".join(map(str, p))
)
tags = st.lists(st.integers(0, 2**32 - 1), max_size=3).map(tuple)
texts = st.none() | st.text("ABC xyz-1", min_size=1, max_size=16).filter(lambda t: t == t.strip())

commands = st.builds(
    Command,
    field=st.sampled_from(CommandField),
    message_id=numbers,
    message_id_being_responded_to=numbers,
    affected_sop_class_uid=uids,
    requested_sop_class_uid=uids,
    affected_sop_instance_uid=uids,
    requested_sop_instance_uid=uids,
    has_data_set=st.booleans(),
    priority=numbers,
    status=numbers,
    offending_elements=tags,
    error_comment=texts,
    error_id=numbers,
    event_type_id=numbers,
    action_type_id=numbers,
    attribute_identifier_list=tags,
    move_destination=texts,
    move_originator_ae_title=texts,
    move_originator_message_id=numbers,
    remaining_suboperations=numbers,
    completed_suboperations=numbers,
    failed_suboperations=numbers,
    warning_suboperations=numbers,
)

KEYWORDS = {
    "message_id": "MessageID",
    "message_id_being_responded_to": "MessageIDBeingRespondedTo",
    "affected_sop_class_uid": "AffectedSOPClassUID",
    "requested_sop_class_uid": "RequestedSOPClassUID",
    "affected_sop_instance_uid": "AffectedSOPInstanceUID",
    "requested_sop_instance_uid": "RequestedSOPInstanceUID",
    "priority": "Priority",
    "status": "Status",
    "error_comment": "ErrorComment",
    "error_id": "ErrorID",
    "event_type_id": "EventTypeID",
    "action_type_id": "ActionTypeID",
    "move_destination": "MoveDestination",
    "move_originator_ae_title": "MoveOriginatorApplicationEntityTitle",
    "move_originator_message_id": "MoveOriginatorMessageID",
    "remaining_suboperations": "NumberOfRemainingSuboperations",
    "completed_suboperations": "NumberOfCompletedSuboperations",
    "failed_suboperations": "NumberOfFailedSuboperations",
    "warning_suboperations": "NumberOfWarningSuboperations",
}


@given(commands)
@settings(max_examples=150, deadline=None)
def test_a_command_is_what_the_reference_reads_and_what_it_writes_we_read(command):
    encoded = encode_command(command)
    (length,) = struct.unpack_from("<I", encoded, 8)
    assert length == len(encoded) - 12

    data_set = reference_decode(BytesIO(encoded), is_implicit_vr=True, is_little_endian=True)
    assert data_set.CommandField == command.field
    assert (data_set.CommandDataSetType != 0x0101) == command.has_data_set
    for name, keyword in KEYWORDS.items():
        value = getattr(command, name)
        assert data_set.get(keyword) == value
    assert [element.tag for element in data_set] == sorted(element.tag for element in data_set)
    assert decode_command(encoded) == command
    assert decode_command(reference_encode(data_set, is_implicit_vr=True, is_little_endian=True)) == command


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_damaged_command_is_refused_or_read_and_never_anything_else(data):
    whole = bytearray(encode_command(A_STORE))
    for _ in range(data.draw(st.integers(1, 5))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode_command(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    except MalformedCommand:
        return


A_STORE = Command(
    field=CommandField.C_STORE_RQ,
    message_id=7,
    affected_sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
    affected_sop_instance_uid="1.2.3",
    priority=0,
    has_data_set=True,
)


def element(number, value, group=0):
    return struct.pack("<HHI", group, number, len(value)) + value


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\0\0\0", id="half an element"),
        pytest.param(element(0x0110, b"\1\0"), id="no command field"),
        pytest.param(element(0x0100, b"\x77\x77"), id="an unknown command field"),
        pytest.param(element(0x0100, b"\1\0\0\0"), id="a number of four bytes"),
        pytest.param(element(0x0100, b"\1\0") + element(0x0901, b"\1\0\1"), id="half a tag"),
        pytest.param(element(0x0010, b"DOE^JOHN", group=0x10), id="an element of another group"),
        pytest.param(struct.pack("<HHI", 0, 0x0100, 2**31) + b"\1\0", id="longer than itself"),
        pytest.param(b"\xff" * 100, id="garbage"),
    ],
)
def test_a_malformed_command_is_refused(raw):
    with pytest.raises(MalformedCommand):
        decode_command(raw)


def piece(data, *, is_last=False, context_id=1, is_command=True):
    return DataReceived(context_id, is_command, is_last, memoryview(data))


def test_a_command_in_many_fragments_is_put_together():
    collector, encoded = CommandCollector(), encode_command(A_STORE)
    for at in range(len(encoded) - 1):
        assert collector.feed(piece(encoded[at : at + 1])) is None
        assert collector.is_collecting
    assert collector.feed(piece(encoded[-1:], is_last=True)) == (1, A_STORE)
    assert not collector.is_collecting


def test_a_command_that_never_ends_is_refused_at_its_limit():
    # W8
    collector = CommandCollector()
    for _ in range(64):
        collector.feed(piece(bytes(1024)))
    with pytest.raises(MalformedCommand, match="longer than the limit"):
        collector.feed(piece(b"x"))


def test_a_data_set_before_its_command_is_refused():
    # W16
    with pytest.raises(MalformedCommand):
        CommandCollector().feed(piece(b"abc", is_command=False))


def test_a_command_stays_in_its_context():
    collector = CommandCollector()
    collector.feed(piece(b"abc"))
    with pytest.raises(MalformedCommand):
        collector.feed(piece(b"abc", context_id=3))


def test_a_message_is_cut_to_the_size_the_peer_takes_and_command_and_data_never_share_a_pdu():
    pdus = list(message_pdus(3, b"c" * 25, b"d" * 31, payload_bytes=largest_payload(16)))
    assert all(len(one) - 6 <= 16 for one in pdus)
    controls = [one[11] for one in pdus]
    assert controls == [1, 1, 3, 0, 0, 0, 2]
    assert b"".join(one[12:] for one in pdus) == b"c" * 25 + b"d" * 31
    assert {one[10] for one in pdus} == {3}


def test_an_empty_data_set_is_one_empty_last_fragment():
    assert [one[11] for one in message_pdus(1, b"c", b"", payload_bytes=100)] == [3, 2]


def test_a_peer_without_a_maximum_gets_pdus_of_a_sane_size():
    assert largest_payload(0) == 128 * 1024 - 6


def test_an_error_comment_is_cut_to_sixty_four_characters():
    encoded = encode_command(Command(field=CommandField.N_SET_RSP, status=0x0110, error_comment="ä" * 70))
    assert decode_command(encoded).error_comment == "?" * 64


@pytest.mark.parametrize(
    "field", [f for f in CommandField if not f.is_response and f is not CommandField.C_CANCEL_RQ]
)
def test_every_request_has_its_response(field):
    assert field.response.name == field.name.replace("_RQ", "_RSP")
    assert field.response.is_response
    assert field.is_composite == field.name.startswith("C_")


@given(
    request=commands,
    status=st.sampled_from([0x0000, 0xFE00, 0xFF00, 0xFF01, 0xA700]),
    data_set=st.none() | st.just(b"x"),
    comment=texts,
    instance=uids,
    named=st.sampled_from([None, "", "1.2.3", "1.2.34", "1.2.", "2.25." + "7" * 59, "2.25." + "7" * 60]),
)
def test_a_response_from_a_template_is_the_response(request, status, data_set, comment, instance, named):
    response = Response(status, data_set, error_comment=comment, affected_sop_instance_uid=instance)
    for field in (
        CommandField.C_FIND_RQ,
        CommandField.C_ECHO_RQ,
        CommandField.C_STORE_RQ,
        CommandField.N_SET_RQ,
    ):
        command = request._replace(field=field)
        bare = command._replace(
            requested_sop_instance_uid=None,
            affected_sop_instance_uid=None,
            event_type_id=None,
            action_type_id=None,
        )
        stored = bare._replace(
            affected_sop_class_uid="1.2.840.10008.5.1.4.1.1.2", affected_sop_instance_uid=named
        )
        removed = bare._replace(requested_sop_class_uid="1.2.4", requested_sop_instance_uid=named)
        for asked in (command, bare, stored, removed):
            for answer in (response, Response(status, data_set)):
                assert encoded_response(asked, answer) == encode_command(response_command(asked, answer))
