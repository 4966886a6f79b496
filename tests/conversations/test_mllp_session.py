"""HL7 in, acknowledgements out, on a real database and without a socket: what is kept, repeated, parked, refused."""

from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import text

from broker.domain.events import EventName
from broker.errors import DatabaseUnavailable
from broker.hl7.exchange import HANG_UP, InboundMessage
from broker.hl7.intake import Applied, Intake, content_digest
from broker.hl7.mapping import MappingSet
from broker.hl7.mllp import Framer, frame
from broker.hl7.tokenizer import tokenize
from broker.hl7.use_cases import UseCases
from broker.workflow.order_policy import OrderPolicy
from tests.ris import ReadableEncoder
from tests.unit.hl7.messages import PID, hl7, msh, obr, orc, orm

POLICY = OrderPolicy(UUID(int=7), stations={"CT": ("CT1",)})


class Session:
    """A sender and the broker, message by message."""

    def __init__(self, uow_factory, clock, apply=None, mappings=None):
        self.uow_factory, self.clock = uow_factory, clock
        self.mappings = mappings or MappingSet.load(None, site_zone=clock.zone)
        self.applied = []
        use_cases = UseCases(clock, ReadableEncoder(), POLICY)

        def default(request, uow):
            self.applied.append(request)
            return use_cases(request, uow)

        self.intake = Intake(uow_factory, apply or default, lambda: self.mappings, clock=clock)

    def batch(self, *messages):
        payloads = [m if isinstance(m, bytes) else m.encode() for m in messages]
        return self.intake.handle_batch([InboundMessage("10.0.0.1:1", p, self.clock.now()) for p in payloads])

    def send(self, message):
        (answer,) = self.batch(message)
        return answer

    def say(self, message):
        """Send a message, answer its acknowledgement code."""
        return tokenize(self.send(message).messages[0].decode()).value("MSA-1")

    def rows(self, columns="outcome, acknowledgement_code, attempts", table="hl7_message"):
        with self.uow_factory() as uow:
            return [
                tuple(r) for r in uow._transaction.execute(text(f"select {columns} from {table} order by id"))
            ]

    def events(self):
        return [name for (name,) in self.rows("name", "event")]


@pytest.fixture
def session(sqlite_uow_factory, clock):
    return Session(sqlite_uow_factory, clock)


def test_an_order_is_acknowledged_and_on_the_worklist(session):
    assert session.say(orm()) == "AA"
    assert session.rows() == [("accepted", "AA", 1)]
    assert session.rows("accession_number, offered", "scheduled_procedure_step") == [("A100", 1)]


def test_the_raw_message_is_kept_as_it_came(session):
    raw = orm().replace("SALLY", "SÖLLY").encode("latin-1")
    session.send(raw)
    assert session.rows('raw, "order", sending_application, message_type') == [(raw, 1, "RIS", "ORM^O01")]


def test_the_same_message_again_gets_the_same_answer_and_has_no_second_effect(session):
    assert session.say(orm()) == "AA"
    assert session.say(orm().replace("20261121093000", "20261121094500")) == "AA"
    assert len(session.applied) == 1
    assert session.rows() == [("accepted", "AA", 1)]
    assert EventName.MESSAGE_REPEATED.value in session.events()


def test_a_repeat_after_a_week_is_a_new_message(session):
    session.say(orm())
    session.clock.advance(timedelta(days=8))
    session.say(orm())
    assert len(session.applied) == 2


def test_another_message_under_the_same_control_id_is_processed_and_flagged(session):
    session.say(orm())
    assert session.say(orm(orc("XO", ""), obr(service="X^OTHER^L"))) == "AA"
    assert len(session.applied) == 2
    assert EventName.CONTROL_ID_REUSED.value in session.events()


def test_a_sender_whose_control_id_never_changes_is_not_read_ever_slower(session):
    for number in range(30):
        session.say(
            hl7(msh("ADT^A08", control_id="1"), PID.replace("SALLY", f"S{'ABCDEFGHIJ'[number % 10]}{number}"))
        )
    with session.uow_factory() as uow:
        assert len(uow.messages.find("RIS", "HOSP", "1")) == 20
    assert session.say(hl7(msh("ADT^A08", control_id="1"), PID.replace("SALLY", "SJ29"))) == "AA"
    assert len(session.rows()) == 30


def test_a_refused_message_is_kept_with_its_problems_and_evaluated_again(session):
    bad = orm(control="QQ")
    assert session.say(bad) == "AE"
    assert session.say(bad) == "AE"
    assert session.rows() == [("refused", "AE", 2)]
    assert '"place":"ORC-1"' in session.rows("problems")[0][0].replace(" ", "")
    assert session.applied == []


def test_a_conflict_is_parked_and_acknowledged(session):
    assert session.say(orm()) == "AA"
    other = orm(control_id="M2").replace("4711", "4712").replace("P100^RIS", "P2").replace("F100^RIS", "F2")
    assert session.say(other) == "AA"
    assert session.rows() == [("accepted", "AA", 1), ("parked", "AA", 1)]
    assert EventName.MESSAGE_PARKED.value in session.events()
    assert session.rows("patient_id", "scheduled_procedure_step") == [("4711",)]


def test_a_conflict_is_refused_where_the_sender_is_configured_so(sqlite_uow_factory, clock, tmp_path):
    (tmp_path / "default.yaml").write_text("reception: { conflict: AE }\n")
    session = Session(sqlite_uow_factory, clock, mappings=MappingSet.load(tmp_path, site_zone=clock.zone))
    session.say(orm())
    other = orm(control_id="M2").replace("4711", "4712").replace("P100^RIS", "P2").replace("F100^RIS", "F2")
    answer = tokenize(session.send(other).messages[0].decode())
    assert answer.value("MSA-1") == "AE"
    assert "205" in answer.value("ERR-1")
    assert "OBR^1^18" in answer.value("ERR-1")


def test_a_failing_group_undoes_its_whole_message(session):
    session.say(orm())
    mixed = orm(
        orc(placer="P9", filler="F9"), obr(accession="A9", placer="P9", filler="F9"),
        orc("HD", "", placer="P8", filler="F8"), obr(accession="A8", placer="P8", filler="F8"), control_id="M2",
    )  # fmt: skip
    assert session.say(mixed) == "AA"
    assert session.rows()[1][0] == "parked"
    assert session.rows("accession_number", "imaging_order") == [("A100",)]


def test_one_bad_message_of_a_batch_leaves_the_others_alone(session):
    answers = session.batch(
        orm(),
        orm(control="QQ", control_id="M2"),
        orm(orc(placer="P3", filler="F3"), obr(accession="A3"), control_id="M3"),
    )
    assert [tokenize(a.messages[0].decode()).value("MSA-1") for a in answers] == ["AA", "AE", "AA"]
    assert [row[0] for row in session.rows()] == ["accepted", "refused", "accepted"]


def test_an_internal_failure_hangs_up_and_the_third_one_parks(sqlite_uow_factory, clock):
    def fail(request, uow):
        raise ZeroDivisionError("ZZTEST^SALLY")

    session = Session(sqlite_uow_factory, clock, apply=fail)
    assert session.send(orm()) == HANG_UP
    assert session.send(orm()) == HANG_UP
    assert session.rows() == [("failed", "AR", 2)]
    assert session.say(orm()) == "AA"
    assert session.rows() == [("parked", "AA", 3)]
    assert EventName.MESSAGE_PARKED.value in session.events()
    assert "ZZTEST" not in session.rows("problems")[0][0]


def test_a_failed_message_is_processed_once_we_are_mended(sqlite_uow_factory, clock):
    failing = [True]

    def apply(request, uow):
        if failing:
            raise ZeroDivisionError
        return Applied()

    session = Session(sqlite_uow_factory, clock, apply=apply)
    assert session.send(orm()) == HANG_UP
    failing.clear()
    assert session.say(orm()) == "AA"


def test_without_a_database_everybody_is_hung_up_on_and_nothing_is_kept(sqlite_uow_factory, clock):
    def away(request, uow):
        raise DatabaseUnavailable

    session = Session(sqlite_uow_factory, clock, apply=away)
    assert session.batch(orm(), orm(control_id="M2")) == [HANG_UP, HANG_UP]
    assert session.rows() == []


def test_a_commit_that_fails_acknowledges_nobody(sqlite_uow_factory, clock, monkeypatch):
    session = Session(sqlite_uow_factory, clock)
    from broker.db.unit_of_work import SqlUnitOfWork

    def refuse(self):
        raise DatabaseUnavailable

    monkeypatch.setattr(SqlUnitOfWork, "commit", refuse)
    assert session.batch(orm(), orm(control_id="M2")) == [HANG_UP, HANG_UP]


def test_a_transaction_that_breaks_is_tried_message_by_message(sqlite_uow_factory, clock, monkeypatch):
    from broker.db.unit_of_work import SqlUnitOfWork

    session = Session(sqlite_uow_factory, clock)
    commit, calls = SqlUnitOfWork.commit, []

    def once(self):
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("deferred")
        commit(self)

    monkeypatch.setattr(SqlUnitOfWork, "commit", once)
    answers = session.batch(orm(), orm(orc(placer="P3", filler="F3"), obr(accession="A3"), control_id="M2"))
    assert [tokenize(a.messages[0].decode()).value("MSA-1") for a in answers] == ["AA", "AA"]
    assert [row[0] for row in session.rows()] == ["accepted", "accepted"]


@pytest.mark.parametrize("junk", [b"hello", b"MSH", b"PID|1\r", b"\x00\x00", b"MSH|||||\r", b"\xff\xfe"])
def test_a_block_without_a_header_is_kept_and_not_answered(session, junk):
    answer = session.send(junk)
    if answer.messages:  # MSH without usable fields still names a separator
        assert tokenize(answer.messages[0].decode()).value("MSA-1") == "AE"
    assert not answer.close
    assert session.rows("raw, outcome") == [(junk, "refused")]


def test_a_message_over_the_bounds_is_refused_and_kept(session):
    answer = tokenize(session.send(orm() + "NTE|1||x\r" * 1001).messages[0].decode())
    assert (answer.value("MSA-1"), answer.value("MSA-2")) == ("AE", "M1")
    assert "207" in answer.value("ERR-1")
    assert session.say(orm(control_id="M2").replace("4711", "~" * 501)) == "AE"
    assert (
        session.say(
            orm(control_id="M3").replace("|NW|", f"|{'N' * 70000}|").replace("ORC|NW", "ORC|" + "N" * 70000)
        )
        == "AE"
    )
    assert [row[0] for row in session.rows()] == ["refused"] * 3


@pytest.mark.parametrize("field", ["|HOSP|", "|M1|", "|ORM^O01^ORM_O01|", "|20261121093000|"])
def test_a_header_over_the_bounds_is_refused_and_kept_not_failed(session, field):
    message = orm().replace(field, field[:-1] + "~" * 600 + "|", 1)
    assert session.say(message) in ("AA", "AE")
    assert session.rows("attempts")[0] == (1,)
    assert session.rows("outcome")[0][0] in ("accepted", "refused")


def test_a_set_mllp_cannot_carry_is_refused(session):
    message = hl7(msh(version="2.5.1", charset="UNICODE UTF-16"), PID, orc(), obr())
    answer = tokenize(session.send(message).messages[0].decode())
    assert answer.value("MSA-1") == "AE"
    assert answer.value("ERR-2") == "MSH^1^18^1"


def test_text_is_read_in_its_character_set(session):
    session.send(hl7(msh(charset="8859/5"), PID.replace("SALLY", "АННА"), orc(), obr()).encode("iso8859_5"))
    assert session.rows("name", "patient") == [("ZZTEST^АННА^Q^DR^JR PHD",)]


def test_unlabelled_utf_8_is_read_and_marked(session):
    session.send(orm().replace("SALLY", "ZOË"))
    assert session.rows("name", "patient") == [("ZZTEST^ZOË^Q^DR^JR PHD",)]
    assert "MSH-18" in session.rows("problems")[0][0]


def test_an_answer_to_one_of_ours_gets_no_answer(session):
    assert session.send(hl7(msh("ACK^O01"), "MSA|AA|X1")).messages == ()
    assert session.rows() == [("ignored", "AA", 1)]


def test_enhanced_mode_sends_the_acknowledgements_asked_for(session):
    def codes(accept, application, number, **changes):
        head = msh(control_id=number, version="2.5.1", extra=f"{accept}|{application}")
        answer = session.send(hl7(head, PID, orc(**changes), obr()))
        return [tokenize(m.decode()).value("MSA-1") for m in answer.messages]

    assert codes("AL", "NE", "E1") == ["CA"]
    assert codes("AL", "AL", "E2") == ["CA", "AA"]
    assert codes("AL", "NE", "E3", control="QQ") == ["CE"]
    assert codes("NE", "NE", "E4") == []


def test_patients_are_updated_and_merged(session):
    session.say(orm())
    assert session.say(hl7(msh("ADT^A08", control_id="M2"), PID.replace("SALLY", "SUSAN"))) == "AA"
    assert (
        session.say(hl7(msh("ADT^A40", control_id="M3"), PID.replace("4711", "5000"), "MRG|4711^^^HOSP"))
        == "AA"
    )
    assert session.rows("patient_id", "scheduled_procedure_step") == [("5000",)]


def test_a_lost_block_is_rejected_if_its_sender_is_known(session):
    answer = tokenize(session.intake.refuse(orm().encode()[:150], "too large").decode())
    assert (answer.value("MSA-1"), answer.value("MSA-2")) == ("AR", "M1")
    assert session.intake.refuse(b"MSH|^~\\&|RIS", "too large") is None
    assert session.intake.refuse(b"\xff\x00junk", "too large") is None


@pytest.mark.parametrize("other", [("M1", "M2"), ("SALLY", "SELMA"), ("|RIS|", "|RIS2|")])
def test_only_the_time_of_a_message_is_left_out_of_its_digest(other):
    same = orm().replace("20261121093000", "2026112109450011+0100")
    assert content_digest(orm().encode()) == content_digest(same.encode())
    assert content_digest(orm().encode()) != content_digest(orm().replace(*other).encode())


def test_a_whole_session_over_the_wire_format(session):
    framer = Framer()
    wire = (
        b"\r\n"
        + frame(orm().encode())
        + frame(b"nonsense")
        + frame(orm(control="QQ", control_id="M2").encode())
    )
    payloads = [event.payload for event in framer.feed(wire)]
    answers = [message for payload in payloads for message in session.send(payload).messages]
    assert [tokenize(a.decode()).value("MSA-2") for a in answers] == ["M1", "M2"]
