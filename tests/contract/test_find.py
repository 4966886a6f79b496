"""What one box finds, on both databases: exactly, from the beginning, bounded, and turned page by page."""

import pytest

from broker.db.schema import METADATA
from broker.errors import InvalidValue
from broker.workflow.find_port import FOUND_LIMIT, FoundGroup
from tests.builders import NOW, a_message, a_patient, a_stored_entry, an_instance
from tests.query_plans import plans_of

STUDY = "1.2.826.0.1.1"


@pytest.fixture
def order(store):
    """One order with a message and an image, beside another one."""

    def make(uow):
        entry = a_stored_entry(uow, 1)
        a_stored_entry(uow, 2)
        uow.messages.add(a_message(1, order=entry.order.id))
        uow.instances.add_many([an_instance(1, order=entry.order.id)])
        return entry.order.id

    return store(make)


def groups(findings):
    return {found.group.value: found for found in findings.groups}


@pytest.mark.parametrize("text", ["A1", "P1", "F1", "PID1", "SPS1", "  A1 "])
def test_a_number_that_names_one_order_leads_to_it(reports, order, text):
    assert reports.find(text).only == (FoundGroup.ORDERS, str(order))


@pytest.mark.parametrize("uid", [STUDY, "1.2.826.0.1.1.1.1"])
def test_a_uid_leads_to_its_study(reports, store, uid):
    store(lambda uow: uow.instances.add_many([an_instance(1, sop_instance_uid="1.2.826.0.1.1.1.1")]))
    assert reports.find(uid).only == (FoundGroup.STUDIES, STUDY)


def test_a_control_id_leads_to_its_message_and_an_ae_title_to_its_station(reports, order):
    group, key = reports.find("M1").only
    assert (group, reports.message_raw(int(key))[0][:3]) == (FoundGroup.MESSAGES, b"MSH")
    assert reports.find("ct1").only == (FoundGroup.DEVICES, "CT1")


@pytest.mark.parametrize(
    "typed", ["hay", "haydn1^joseph", "HAYDN1, Jos", "joseph haydn1", "Haydn1 joseph", "HÄYDN1"]
)
def test_a_name_is_found_however_it_is_typed(reports, order, typed):
    found = groups(reports.find(typed))["names"]
    assert order in [line.order_id for line in found.orders]
    assert reports.find(typed).only is None, "a name names nobody exactly"


@pytest.mark.parametrize(
    "text", ["", "  ", "\x00", "nobody", "%", "_", "A_", "\U0010ffff", "\ud7ff", "x" * 500]
)
def test_what_nothing_is_called_finds_nothing(reports, order, text):
    assert not reports.find(text).groups


def test_what_is_longer_is_another_number(reports, store):
    store(lambda uow: [a_stored_entry(uow, number) for number in (1, 12, 123)])
    found = reports.find("A1")
    assert found.only is None
    assert [line.accession_number for line in groups(found)["orders"].orders] == ["A1"]
    assert [line.accession_number for line in groups(found)["accessions"].orders] == ["A12", "A123"]


def test_many_of_one_name_are_turned_page_by_page_without_loss(reports, store):
    many = 3 * FOUND_LIMIT + 5

    def make(uow):
        for number in range(many):
            patient = uow.patients.add(
                a_patient(number, name=f"NGUYEN^{number % 7}" if number % 2 else "NGUYEN"), now=NOW
            )
            a_stored_entry(uow, number, patient=patient)

    store(make)
    found = groups(reports.find("nguyen"))["names"]
    assert (found.count, found.counted_all) == (many, True)
    seen = [line.order_id for line in found.orders]
    while found.after is not None:
        found = reports.find_more("nguyen", FoundGroup.NAMES, after=found.after)
        seen += [line.order_id for line in found.orders]
    assert len(seen) == len(set(seen)) == many


def test_many_messages_of_one_control_id_are_turned_page_by_page(reports, store):
    def make(uow):
        for _ in range(FOUND_LIMIT + 3):
            uow.messages.add(a_message(1))

    store(make)
    found = groups(reports.find("M1"))["messages"]
    rest = reports.find_more("M1", FoundGroup.MESSAGES, after=found.after)
    ids = [line.message_id for line in (*found.messages, *rest.messages)]
    assert ids == sorted(ids, reverse=True)
    assert len(set(ids)) == found.count == FOUND_LIMIT + 3


@pytest.mark.parametrize(
    "after", ["", "[]", "[1]", '["x", 1]', "[0, 1, 2]", "{", '[0, "a", -1]', '[true, "a", 1]']
)
def test_a_cursor_that_is_none_is_refused(reports, after):
    with pytest.raises(InvalidValue):
        reports.find_more("x", FoundGroup.NAMES, after=after)


def test_finding_reads_no_table_from_end_to_end(engine, reports, order):
    cursor = '[0, "HAYDN1", 1]'
    plans = plans_of(
        engine, lambda: (reports.find("HAYDN"), reports.find_more("HAYDN", FoundGroup.NAMES, after=cursor))
    )
    assert plans
    assert not [p for p in plans if "Seq Scan" in p], plans
    whole = [
        p for p in plans if p.startswith("SCAN") and p.split()[1] in METADATA.tables and "USING" not in p
    ]
    assert not whole, plans
    assert any("ix_step_name_key" in p for p in plans), plans
