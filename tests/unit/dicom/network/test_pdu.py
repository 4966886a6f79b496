"""Our association PDUs are those of the reference codec, and hostile ones are refused."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ, P_DATA_TF
from pynetdicom.pdu_items import (
    AsynchronousOperationsWindowSubItem,
    ImplementationClassUIDSubItem,
    ImplementationVersionNameSubItem,
    MaximumLengthSubItem,
    SCP_SCU_RoleSelectionSubItem,
    SOPClassExtendedNegotiationSubItem,
)

from broker.dicom.network import pdu
from broker.dicom.network.pdu import (
    AnsweredContext,
    AssociateAccept,
    AssociateRequest,
    MalformedPdu,
    ProposedContext,
    Rejection,
    Roles,
)

uids = st.lists(st.integers(1, 99999), min_size=2, max_size=8).map(lambda parts: ".".join(map(str, parts)))
ae_titles = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_- ", min_size=1, max_size=16).filter(
    lambda title: title == title.strip()
)
versions = st.text("ABCXYZ0123456789_", min_size=1, max_size=16)
windows = st.none() | st.tuples(st.integers(0, 65535), st.integers(0, 65535))
roles = st.dictionaries(uids, st.builds(Roles, scu=st.booleans(), scp=st.booleans()), max_size=4)
extended = st.dictionaries(uids, st.binary(min_size=1, max_size=8), max_size=4)


@st.composite
def requests(draw):
    ids = draw(st.lists(st.integers(0, 127).map(lambda n: 2 * n + 1), min_size=1, max_size=12, unique=True))
    contexts = tuple(
        ProposedContext(i, draw(uids), tuple(draw(st.lists(uids, min_size=1, max_size=4)))) for i in ids
    )
    return AssociateRequest(
        called_ae_title=draw(ae_titles),
        calling_ae_title=draw(ae_titles),
        contexts=contexts,
        max_pdu_bytes=draw(st.integers(0, 2**32 - 1)),
        implementation_class_uid=draw(uids),
        implementation_version=draw(versions),
        asynchronous_operations=draw(windows),
        roles=draw(roles),
        extended_negotiation=draw(extended),
    )


def reference_facts(decoded):
    """Say what pynetdicom found, in our words."""
    items = decoded.user_information.user_data
    found = {"roles": {}, "extended": {}, "window": None, "version": ""}
    for item in items:
        if isinstance(item, MaximumLengthSubItem):
            found["max"] = item.maximum_length_received
        elif isinstance(item, ImplementationClassUIDSubItem):
            found["class"] = str(item.implementation_class_uid)
        elif isinstance(item, ImplementationVersionNameSubItem):
            found["version"] = item.implementation_version_name
        elif isinstance(item, AsynchronousOperationsWindowSubItem):
            found["window"] = (
                item.maximum_number_operations_invoked,
                item.maximum_number_operations_performed,
            )
        elif isinstance(item, SCP_SCU_RoleSelectionSubItem):
            found["roles"][str(item.sop_class_uid)] = Roles(scu=bool(item.scu_role), scp=bool(item.scp_role))
        elif isinstance(item, SOPClassExtendedNegotiationSubItem):
            found["extended"][str(item.sop_class_uid)] = item.service_class_application_information
    return found


def our_facts(message):
    return {
        "max": message.max_pdu_bytes,
        "class": message.implementation_class_uid,
        "version": message.implementation_version,
        "window": message.asynchronous_operations,
        "roles": message.roles,
        "extended": message.extended_negotiation,
    }


@given(requests())
@settings(max_examples=60, deadline=None)
def test_what_we_request_is_what_the_reference_reads_and_what_it_writes_we_read(request):
    encoded = pdu.encode_associate_request(request)
    reference = A_ASSOCIATE_RQ()
    reference.decode(encoded)

    assert reference.called_ae_title.strip() == request.called_ae_title
    assert reference.calling_ae_title.strip() == request.calling_ae_title
    assert [
        (c.presentation_context_id, str(c.abstract_syntax), tuple(map(str, c.transfer_syntax)))
        for c in reference.presentation_context
    ] == [(c.id, c.abstract_syntax, c.transfer_syntaxes) for c in request.contexts]
    assert reference_facts(reference) == our_facts(request)
    assert pdu.parse_associate_request(reference.encode()) == request


@st.composite
def accepts(draw):
    ids = draw(st.lists(st.integers(0, 127).map(lambda n: 2 * n + 1), min_size=1, max_size=12, unique=True))
    results = st.integers(0, 4)
    return AssociateAccept(
        called_ae_title=draw(ae_titles),
        calling_ae_title=draw(ae_titles),
        contexts=tuple(AnsweredContext(i, draw(results), draw(uids)) for i in ids),
        max_pdu_bytes=draw(st.integers(0, 2**32 - 1)),
        implementation_class_uid=draw(uids),
        implementation_version=draw(versions),
        asynchronous_operations=draw(windows),
        roles=draw(roles),
        extended_negotiation=draw(extended),
    )


@given(accepts())
@settings(max_examples=60, deadline=None)
def test_what_we_accept_is_what_the_reference_reads_and_what_it_writes_we_read(accept):
    reference = A_ASSOCIATE_AC()
    reference.decode(pdu.encode_associate_accept(accept))
    assert [(c.presentation_context_id, c.result) for c in reference.presentation_context] == [
        (c.id, c.result) for c in accept.contexts
    ]
    assert reference_facts(reference) == our_facts(accept)

    again = pdu.parse_associate_accept(reference.encode())
    assert our_facts(again) == our_facts(accept)
    # PS3.8 9.3.3.2: the transfer syntax of a refused context means nothing
    assert again.contexts == tuple(
        c if c.result == 0 else AnsweredContext(c.id, c.result, "") for c in accept.contexts
    )


def test_the_small_pdus_are_those_of_the_reference():
    rejected = A_ASSOCIATE_RJ()
    rejected.decode(pdu.encode_reject(Rejection(1, 1, 7)))
    assert (rejected.result, rejected.source, rejected.reason_diagnostic) == (1, 1, 7)
    aborted = A_ABORT_RQ()
    aborted.decode(pdu.encode_abort(2, 6))
    assert (aborted.source, aborted.reason_diagnostic) == (2, 6)
    data = P_DATA_TF()
    data.decode(pdu.data_header(5, pdu.COMMAND_BIT | pdu.LAST_BIT, 4) + b"abcd")
    (item,) = data.presentation_data_value_items
    assert (item.presentation_context_id, item.presentation_data_value) == (5, b"\x03abcd")


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_damaged_request_is_refused_or_read_and_never_anything_else(data):
    whole = bytearray(pdu.encode_associate_request(a_request(contexts=5)))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(6, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(6, len(whole)))
    for parse in (pdu.parse_associate_request, pdu.parse_associate_accept):
        try:
            parsed = parse(bytes(whole[:cut]))
        except MalformedPdu:
            continue
        assert len(parsed.contexts) <= 128


def a_request(*, contexts=1, **changes):
    return AssociateRequest(
        called_ae_title="BROKER",
        calling_ae_title="CT1",
        contexts=tuple(
            ProposedContext(
                2 * n + 1,
                f"1.2.840.10008.5.1.4.1.1.{n + 1}",
                ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.4.70"),
            )
            for n in range(contexts)
        ),
        max_pdu_bytes=16384,
        **changes,
    )


def with_items(*items):
    """Put raw items where the variable items of a request stand."""
    whole = pdu.encode_associate_request(a_request())[:74] + b"".join(items)
    return whole[:2] + (len(whole) - 6).to_bytes(4, "big") + whole[6:]


def item(kind, value):
    return bytes((kind, 0)) + len(value).to_bytes(2, "big") + value


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(with_items()[:60], id="shorter than its fixed fields"),
        pytest.param(with_items(b"\x10\x00"), id="half an item header"),
        pytest.param(with_items(b"\x20\x00\xff\xff\x01"), id="an item longer than the PDU"),
        pytest.param(with_items(item(0x20, b"\x01")), id="a context without its header"),
        pytest.param(with_items(item(0x20, b"\x02\0\0\0")), id="an even context id"),
        pytest.param(with_items(item(0x20, b"\x01\0\0\0") * 2), id="the same context id twice"),
        pytest.param(with_items(item(0x20, b"\x01\0\0\0" + b"\x30\0\0\x09abc")), id="a syntax too long"),
        pytest.param(with_items(item(0x50, item(0x51, b"\0\0"))), id="a maximum length of two bytes"),
        pytest.param(with_items(item(0x50, item(0x53, b"\0"))), id="a window of one byte"),
        pytest.param(with_items(item(0x50, item(0x54, b"\x00\x031.2"))), id="roles without roles"),
        pytest.param(with_items(item(0x50, item(0x54, b"\x00\xff1.2\1\1"))), id="a UID longer than its item"),
        pytest.param(with_items(item(0x50, item(0x56, b"\x00"))), id="extended negotiation of one byte"),
    ],
)
def test_a_malformed_request_is_refused(raw):
    with pytest.raises(MalformedPdu):
        pdu.parse_associate_request(raw)


def test_twenty_thousand_contexts_are_refused_at_once():
    # W21: they have to repeat ids, and each would cost
    raw = with_items(*(item(0x20, bytes((2 * n % 256 | 1, 0, 0, 0))) for n in range(20_000)))
    started = time.thread_time()
    with pytest.raises(MalformedPdu, match="more presentation contexts than ids"):
        pdu.parse_associate_request(raw)
    assert time.thread_time() - started < 0.2


def test_user_identity_and_items_from_the_future_are_ignored():
    identity = item(0x58, b"\x02\x01" + b"\x00\x04user" + b"\x00\x04pass")
    raw = with_items(item(0x50, item(0x51, b"\0\0\x40\0") + identity + item(0x7F, b"??")), item(0x99, b"!"))
    assert pdu.parse_associate_request(raw).max_pdu_bytes == 16384


def test_padding_with_zeros_is_no_part_of_a_name():
    raw = bytearray(pdu.encode_associate_request(a_request()))
    raw[10:26] = b"BROKER".ljust(16, b"\0")
    assert pdu.parse_associate_request(bytes(raw)).called_ae_title == "BROKER"


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("1.2.840.10008.1.1", True),
        ("1.2.03.4", True),  # not allowed, often met
        ("2.25." + "1" * 59, True),
        ("2.25." + "1" * 60, False),
        ("", False),
        (".1", False),
        ("1.", False),
        ("1..2", False),
        ("../../etc/passwd", False),
        ("1.2\n", False),
        ("1.2\0", False),
        ("1.٣", False),
        ("<script>", False),
    ],
)
def test_a_uid_is_digits_and_dots(text, valid):
    assert pdu.is_uid(text) is valid


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("CT1", True),
        ("A" * 16, True),
        ("A" * 17, False),
        ("", False),
        ("A\\B", False),
        ("A\nB", False),
        ("Ä", False),
    ],
)
def test_an_ae_title_is_sixteen_printable_characters(text, valid):
    assert pdu.is_ae_title(text) is valid
