"""Facts: where each comes from, and what an order says to a rule."""

from __future__ import annotations

import pytest

from broker.domain.facts import ORDER_FIELDS, OrderView, Source, order_facts, routing_facts, source_of
from broker.domain.orders import (
    Code,
    EntityIdentifier,
    ImagingOrder,
    Patient,
    RequestedProcedure,
    ScheduledProcedureStep,
)
from broker.domain.steps import OrderStatus, StepStatus


def a_view(number: int = 1, **step: object) -> OrderView:
    return OrderView(
        Patient(1, "P1", "HOSP", "HAYDN^JOSEPH", "17320331", "M"),
        ImagingOrder(
            number,
            1,
            EntityIdentifier(f"PL{number}"),
            EntityIdentifier(f"FI{number}"),
            f"ACC{number}",
            None,
            OrderStatus.SCHEDULED,
            {"ReasonForTheRequestedProcedure": "cough"},
            "RIS",
            "HOSP",
        ),
        RequestedProcedure(
            number,
            number,
            f"RP{number}",
            "1.2.3",
            {
                "RequestedProcedureCodeSequence": (Code("CTCHEST", "99X", "CT of the chest"),),
                "RequestedProcedurePriority": "STAT",
                "RequestedProcedureDescription": "CT Chest",
            },
        ),
        (
            ScheduledProcedureStep(
                number,
                number,
                f"SPS{number}",
                "CT",
                ("CT1", "CT2"),
                "20261121",
                "0900",
                StepStatus.SCHEDULED,
                attributes={"ScheduledProtocolCodeSequence": (Code("P5", "99X", "thin"),)},
            ),
        ),
    )


@pytest.mark.parametrize(
    ("key", "source"),
    [
        ("Modality", Source.IMAGE),
        ("RequestAttributesSequence.ScheduledProcedureStepID", Source.IMAGE),
        ("order.accession_number", Source.ORDER),
        ("calling_ae_title", Source.DEVICE),
    ],
)
def test_a_key_says_where_its_values_come_from(key: str, source: Source) -> None:
    assert source_of(key) is source


def test_an_order_says_everything_a_rule_may_ask() -> None:
    facts = order_facts([a_view()], keys=["order.RequestedProcedureDescription", "order.Allergies"])
    assert facts["order.accession_number"] == ("ACC1",)
    assert facts["order.placer_order_number"] == ("PL1",)
    assert facts["order.filler_order_number"] == ("FI1",)
    assert facts["order.patient_id"] == ("P1",)
    assert facts["order.issuer_of_patient_id"] == ("HOSP",)
    assert facts["order.procedure_code"] == ("CTCHEST",)
    assert facts["order.protocol_code"] == ("P5",)
    assert facts["order.priority"] == ("STAT",)
    assert facts["order.modality"] == ("CT",)
    assert facts["order.scheduled_station_ae_title"] == ("CT1", "CT2")
    assert facts["order.scheduled_date"] == ("20261121",)
    assert facts["order.RequestedProcedureDescription"] == ("CT Chest",)
    assert "order.Allergies" not in facts
    assert {key.removeprefix("order.") for key in facts} - {"RequestedProcedureDescription"} == set(
        ORDER_FIELDS
    )


def test_what_no_rule_asks_for_is_not_copied_out_of_the_order() -> None:
    assert "order.ReasonForTheRequestedProcedure" not in order_facts([a_view()])
    assert order_facts([a_view()], keys=["order.ReasonForTheRequestedProcedure"])[
        "order.ReasonForTheRequestedProcedure"
    ] == ("cough",)


def test_a_study_of_two_orders_has_the_values_of_both() -> None:
    facts = order_facts([a_view(1), a_view(2)])
    assert facts["order.accession_number"] == ("ACC1", "ACC2")
    assert facts["order.patient_id"] == ("P1",)


def test_without_an_order_there_are_no_order_facts() -> None:
    assert order_facts([], keys=["order.RequestedProcedureDescription"]) == {}


def test_an_image_cannot_pretend_to_be_the_device_or_the_order() -> None:
    facts = routing_facts(
        {"calling_ae_title": ("EVIL",), "order.priority": ("STAT",)},
        calling_ae_title="CT1",
        order={"order.priority": ("ROUTINE",)},
    )
    assert facts == {"calling_ae_title": ("CT1",), "order.priority": ("ROUTINE",)}
