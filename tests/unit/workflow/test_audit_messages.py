"""Every event of the trail as an audit message of DICOM, by the schema and by the table of its message."""

from base64 import b64decode, b64encode
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.domain.audit_message import AuditSource, Code
from broker.domain.events import EventName, Subject
from broker.notices.audit_collector import entry_of
from broker.notices.audit_xml import LARGEST, written
from broker.workflow.audit_alerts import untranslated
from broker.workflow.audit_messages import NOT_REPORTED, TRANSLATIONS, message_of
from broker.workflow.audit_participants import Node, Ourselves
from broker.workflow.audit_port import PatientNamed, TrailEvent
from tests.audit_schema import event_code, valid
from tests.builders import NOW

US = Ourselves(
    "broker1",
    "BROKER",
    "https://broker.example/admin/audit",
    {"archive": Node("10.0.0.9", "PACS1"), "film": Node("10.0.0.8", "FILM")},
)
SOURCE = AuditSource("BROKER@broker1", "General Hospital")
EVENT = TrailEvent(
    number=7,
    at=NOW,
    name="viewed",
    subject="order",
    subject_id=3,
    study_instance_uid=None,
    order=3,
    actor="ada",
    details={"address": "192.0.2.1"},
    patient=PatientNamed("PID1", "HOSP", "HAYDN^JOSEPH"),
    accession_number="A1",
)
IMAGES = {"study_instance_uid": "1.2.9", "subject": "series", "subject_id": None, "actor": "CT1"}
SENT = {
    "subject": "delivery",
    "study_instance_uid": "1.2.9",
    "actor": "broker",
    "destination": "archive",
    "destination_kind": "dicom",
    "instances": 312,
    "details": {"destination": "archive", "attempt": 1, "reason": "association rejected"},
}


def an_event(name, **values):
    return replace(EVENT, name=name.value if isinstance(name, EventName) else name, **values)


def told(name, **values):
    """Answer the message of an event as a collector reads it."""
    message = message_of(an_event(name, **values), US)
    assert message is not None
    return valid(written(message, SOURCE))


def participants(root):
    return [
        (
            one.get("UserID"),
            one.get("UserIsRequestor"),
            [role.get("csd-code") for role in one.iter("RoleIDCode")],
        )
        for one in root.iter("ActiveParticipant")
    ]


def objects(root):
    """Answer (id, code of the id's type, type, role, name) of each object."""
    return [
        (
            one.get("ParticipantObjectID"),
            one.find("ParticipantObjectIDTypeCode").get("csd-code"),
            one.get("ParticipantObjectTypeCode"),
            one.get("ParticipantObjectTypeCodeRole"),
            one.findtext("ParticipantObjectName"),
        )
        for one in root.iter("ParticipantObjectIdentification")
    ]


def details(root):
    return {
        one.get("type"): b64decode(one.get("value")).decode() for one in root.iter("ParticipantObjectDetail")
    }


PATIENT = ("PID1^^^HOSP", "2", "1", "1", "HAYDN^JOSEPH")
STUDY = ("1.2.9", "110180", "2", "3", "")


def test_of_every_event_it_is_decided_whether_it_is_reported():
    assert set(TRANSLATIONS) | NOT_REPORTED == set(EventName)
    assert not set(TRANSLATIONS) & NOT_REPORTED


@pytest.mark.parametrize("name", TRANSLATIONS, ids=lambda name: name.value)
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"patient": None, "accession_number": "", "actor": "broker", "details": {}, "order": None},
        IMAGES | {"mpps": "1.2.3", "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2"},
        SENT,
        SENT | {"destination_kind": "print", "destination": "film"},
        SENT | {"destination_kind": "mllp", "study_instance_uid": None, "instances": None},
        {"subject": "patient", "details": {"absorbed": 3, "survivor": 4, "kind": "audit"}},
        {"actor": "wall (token 3)", "details": {"address": "2001:db8::1", "asked_at": "yesterday"}},
    ],
)
def test_every_message_is_allowed_by_the_schema(name, values):
    message = message_of(an_event(name, **values), US)
    if message is None:
        by_hand = {
            EventName.DESTINATION_PAUSED,
            EventName.DESTINATION_RESUMED,
            EventName.DESTINATION_DRAINING,
        }
        assert name in {EventName.DELIVERY_CLAIMED, EventName.ALERT_RAISED} | by_hand
        return
    root = valid(written(message, SOURCE))
    assert root.find("AuditSourceIdentification").get("AuditSourceID") == "BROKER@broker1"
    assert root.find("EventIdentification").get("EventDateTime") == "2026-11-21T08:00:00.000+00:00"
    # Never more than one requestor (A.5.2).
    assert sum(one.get("UserIsRequestor") == "true" for one in root.iter("ActiveParticipant")) <= 1


def test_what_is_not_reported_and_what_a_newer_version_wrote_is_no_message():
    assert message_of(an_event(EventName.ROUTED), US) is None
    assert message_of(an_event("teleported"), US) is None


def test_who_looked_at_an_order_is_told_with_the_patient():
    root = told(
        EventName.VIEWED, details={"address": "192.0.2.1", "page": "/orders/{order_id}", "how": "opened"}
    )
    event = root.find("EventIdentification")
    assert (event_code(root), event.get("EventActionCode"), event.get("EventOutcomeIndicator")) == (
        "110109",
        "R",
        "0",
    )
    assert participants(root) == [("ada@broker1", "true", []), ("worklist-broker@broker1", "false", [])]
    person = root.find("ActiveParticipant")
    assert (person.get("NetworkAccessPointID"), person.get("NetworkAccessPointTypeCode")) == (
        "192.0.2.1",
        "2",
    )
    assert objects(root) == [PATIENT]
    assert details(root)["page"] == "/orders/{order_id}"


def test_who_looked_at_images_is_told_with_study_and_patient():
    root = told(EventName.VIEWED, subject="study", study_instance_uid="1.2.9")
    assert (event_code(root), objects(root)) == ("110103", [STUDY, PATIENT])


@pytest.mark.parametrize(
    ("name", "kind", "action"),
    [
        (EventName.ORDER_PLACED, "110109", "C"),
        (EventName.ORDER_CHANGED, "110109", "U"),
        (EventName.PATIENT_CREATED, "110110", "C"),
        (EventName.PATIENT_UPDATED, "110110", "U"),
        (EventName.STEP_SCHEDULED, "110111", "C"),
        (EventName.MPPS_FINISHED, "110111", "U"),
    ],
)
def test_a_record_that_changed_is_told_with_who_changed_it(name, kind, action):
    root = told(name, actor="RIS", study_instance_uid="1.2.9")
    assert event_code(root) == kind
    assert root.find("EventIdentification").get("EventActionCode") == action
    assert participants(root)[0] == ("RIS", "true", [])
    assert PATIENT in objects(root)


def test_of_merged_patients_one_is_gone():
    one, other = {"absorbed": 3, "survivor": 4}, {"absorbed": 5, "survivor": 3}
    actions = [
        told(EventName.PATIENT_MERGED, subject="patient", details=told_of)
        .find("EventIdentification")
        .get("EventActionCode")
        for told_of in (one, other)
    ]
    assert actions == ["D", "U"]


def test_a_worklist_query_is_told_with_its_identifier():
    identifier = bytes(range(40))
    root = told(
        EventName.WORKLIST_QUERIED,
        subject="device",
        actor="CT1",
        details={
            "asked_at": "2026-11-21T07:59:58+00:00",
            "status": "0000",
            "answers": 14,
            "keys": ["Modality"],
            "identifier": b64encode(identifier).decode(),
            "transfer_syntax": "1.2.840.10008.1.2.1",
        },
    )
    assert event_code(root) == "110112"
    event = root.find("EventIdentification")
    assert (event.get("EventActionCode"), event.get("EventDateTime")) == (
        "E",
        "2026-11-21T07:59:58.000+00:00",
    )
    assert participants(root) == [
        ("CT1", "true", ["110153"]),
        ("worklist-broker@broker1", "false", ["110152"]),
    ]
    assert root.find("ActiveParticipant").get("AlternativeUserID") == "AETITLES=CT1"
    (query,) = root.iter("ParticipantObjectQuery")
    assert b64decode(query.text) == identifier
    assert objects(root)[0][:4] == ("1.2.840.10008.5.1.4.31", "110181", "2", "3")
    assert details(root)["TransferSyntax"] == "1.2.840.10008.1.2.1"
    assert details(root)["answers"] == "14"


def test_a_search_on_the_pages_is_a_query_in_its_own_words():
    root = told(EventName.SEARCHED, subject="system", details={"text": "haydn ünal", "page": "/find"})
    (query,) = root.iter("ParticipantObjectQuery")
    assert (event_code(root), b64decode(query.text).decode()) == ("110112", "haydn ünal")


def test_images_that_came_in_are_told_by_number_and_accession_number():
    root = told(EventName.INSTANCE_RECEIVED, **IMAGES | {"details": {"instances": 312}})
    assert (event_code(root), root.find("EventIdentification").get("EventActionCode")) == ("110104", "C")
    assert participants(root) == [
        ("CT1", "true", ["110153"]),
        ("worklist-broker@broker1", "false", ["110152"]),
    ]
    assert objects(root) == [STUDY, PATIENT]
    assert root.find(".//SOPClass").get("NumberOfInstances") == "312"
    assert root.find(".//Accession").get("Number") == "A1"
    again = told(EventName.INSTANCE_REPEATED, **IMAGES)
    assert again.find("EventIdentification").get("EventActionCode") == "R"


def test_a_delivery_begins_and_ends_or_fails_at_a_node():
    for name, kind, outcome in [
        (EventName.DELIVERY_CLAIMED, "110102", "0"),
        (EventName.DELIVERY_DELIVERED, "110104", "0"),
        (EventName.DELIVERY_RETRY, "110104", "4"),
        (EventName.DELIVERY_DIED, "110104", "8"),
    ]:
        root = told(name, **SENT)
        event = root.find("EventIdentification")
        assert (event_code(root), event.get("EventOutcomeIndicator")) == (kind, outcome)
        assert participants(root) == [
            ("worklist-broker@broker1", "true", ["110153"]),
            ("archive", "false", ["110152"]),
        ]
        there = root.findall("ActiveParticipant")[1]
        assert there.get("AlternativeUserID") == "AETITLES=PACS1"
        assert there.get("NetworkAccessPointID") == "10.0.0.9"
        description = event.findtext("EventOutcomeDescription")
        assert description == (None if outcome == "0" else "association rejected")


def test_film_is_an_export_to_media_and_its_beginning_is_none():
    film = SENT | {"destination_kind": "print", "destination": "film"}
    assert message_of(an_event(EventName.DELIVERY_CLAIMED, **film), US) is None
    root = told(EventName.DELIVERY_DELIVERED, **film)
    assert event_code(root) == "110106"
    media = root.find(".//MediaIdentifier/MediaType")
    assert media.get("csd-code") == "110010"
    assert participants(root)[1][2] == ["110154"]


def test_signing_in_and_out_and_not_being_let_in():
    for name, kind, outcome in [
        (EventName.SIGNED_IN, "110122", "0"),
        (EventName.SIGNED_OUT, "110123", "0"),
        (EventName.SIGN_IN_REFUSED, "110122", "4"),
    ]:
        root = told(name, subject="account", details={"address": "192.0.2.1", "reason": "name or password"})
        event = root.find("EventIdentification")
        assert (event_code(root), event.find("EventTypeCode").get("csd-code")) == ("110114", kind)
        assert (event.get("EventActionCode"), event.get("EventOutcomeIndicator")) == ("E", outcome)
        assert participants(root)[0] == ("ada@broker1", "true", [])
        assert root.find("ActiveParticipant").get("NetworkAccessPointID") == "192.0.2.1"
        assert objects(root) == []


@pytest.mark.parametrize(
    ("name", "kind", "outcome", "values"),
    [
        (EventName.ACCOUNT_CHANGED, "110136", "0", {}),
        (EventName.ACCOUNT_ADDED, "110137", "0", {}),
        (EventName.TOKEN_ISSUED, "110137", "0", {}),
        (EventName.DESTINATION_PAUSED, "110128", "0", {}),
        (EventName.DEVICE_ADMITTED, "110129", "0", {}),
        (EventName.CONFIGURATION_LOADED, "110131", "0", {}),
        (EventName.DEVICE_REFUSED, "110126", "4", {"actor": "LOANER"}),
        (EventName.ALERT_RAISED, "110129", "12", {"details": {"kind": "audit"}}),
    ],
)
def test_a_change_of_security_is_an_alert_with_its_kind_and_description(name, kind, outcome, values):
    root = told(
        name, **{"details": {"address": "192.0.2.9", "reason": "not listed", "wire": "1/1/3"}} | values
    )
    event = root.find("EventIdentification")
    assert event_code(root) == "110113"
    assert event.find("EventTypeCode").get("csd-code") == kind
    assert event.get("EventOutcomeIndicator") == outcome
    assert details(root)["Alert Description"]
    # The performing persons or processes are no requestors (A.5.3.11).
    assert all(one[1] == "false" for one in participants(root)[1:])


def test_who_read_the_trail_is_told_with_its_address():
    root = told(EventName.AUDIT_READ, subject="system", details={"how": "searched", "asked": "patient PID1"})
    assert event_code(root) == "110101"
    assert objects(root) == [("https://broker.example/admin/audit", "12", "2", "13", "Security Audit Log")]
    assert details(root) == {"how": "searched", "asked": "patient PID1"}


def test_a_role_that_starts_and_stops_is_an_application():
    told_of = {"role": "dicom", "host": "broker2", "version": "1.2"}
    for name, kind in [(EventName.STARTED, "110120"), (EventName.STOPPED, "110121")]:
        root = told(name, subject="system", actor="broker", details=told_of)
        assert event_code(root) == "110100"
        assert root.find("EventIdentification/EventTypeCode").get("csd-code") == kind
        assert participants(root) == [("dicom@broker2", "false", ["110150"])]
        assert root.find("ActiveParticipant").get("AlternativeUserID") == "AETITLES=BROKER"


def test_an_event_that_cannot_be_translated_leaves_its_number_and_name():
    root = valid(written(untranslated(EVENT, US, "KeyError"), SOURCE))
    assert "event 7" in details(root)["Alert Description"]


def test_an_entry_has_the_facility_the_severity_the_id_and_the_number_in_the_chain():
    entry = entry_of(7, message_of(an_event(EventName.SIGNED_IN), US), SOURCE).encoded()
    head, mark, body = entry.partition(b"\xef\xbb\xbf")
    assert head.startswith(b"<85>1 2026-11-21T08:00:00.000Z ")
    assert head.endswith(b'DICOM+RFC3881 [event@32473 number="7"] ')
    assert mark
    valid(body)
    refused = entry_of(8, message_of(an_event(EventName.SIGN_IN_REFUSED), US), SOURCE).encoded()
    assert refused.startswith(b"<84>1 ")


hostile = st.text(st.characters(exclude_categories=()), max_size=60).flatmap(
    lambda text: st.sampled_from(
        [text, text * 2000, '"&' * 1000 + text, "\U0001f600" * 3000, "<script>\x00]]>\u202e" + text]
    )
)
values = st.one_of(hostile, st.integers(), st.none(), st.booleans(), st.lists(hostile, max_size=60))


@given(
    name=st.sampled_from(sorted(TRANSLATIONS, key=lambda name: name.value)),
    subject=st.sampled_from(list(Subject)),
    kind=st.sampled_from(["dicom", "print", "folder", "mllp", ""]),
    texts=st.lists(hostile, min_size=8, max_size=8),
    more=st.dictionaries(
        st.sampled_from(
            [
                "address",
                "page",
                "text",
                "identifier",
                "transfer_syntax",
                "asked_at",
                "reason",
                "keys",
                "kind",
                "role",
            ]
        )
        | hostile,
        values,
        max_size=20,
    ),
)
def test_whatever_a_peer_calls_itself_a_message_is_valid_and_no_larger_than_every_receiver_takes(
    name, subject, kind, texts, more
):
    event = TrailEvent(
        1, NOW, name.value, subject.value, 1, texts[0] or None, 1, texts[1], more,
        PatientNamed(texts[2], texts[3], texts[4]), texts[5], texts[6], kind, 3, texts[7], texts[0],
    )  # fmt: skip
    message = message_of(event, US)
    if message is None:
        return
    entry = entry_of(1, message, AuditSource(texts[0], texts[1])).encoded()
    assert len(entry) <= LARGEST
    valid(entry.partition(b"\xef\xbb\xbf")[2])
    assert b"\n" not in entry


def test_codes_are_told_with_their_meaning():
    root = told(EventName.SIGNED_IN)
    code = root.find("EventIdentification/EventID")
    assert Code(code.get("csd-code"), code.get("originalText"), code.get("codeSystemName")) == Code(
        "110114", "User Authentication", "DCM"
    )
