from datetime import UTC, datetime

from broker.workflow.explain import ExplainedClause, ExplainedRoute
from broker.workflow.reports_port import DeliveryLine
from broker.workflow.whereabouts import Whereabouts, whereabouts

NOW = datetime(2026, 11, 21, 3, tzinfo=UTC)


def a_route(name, to, *clauses, matched=False):
    told = tuple(ExplainedClause(text, holds, seen) for text, holds, seen in clauses)
    return ExplainedRoute(name, matched, 1, to, told)


def sent(number, to, state="DELIVERED", delivered=1, **more):
    return DeliveryLine(
        **{
            "id": number, "destination": to, "kind": "dicom", "route": "r", "unit": "study", "state": state,
            "attempt": 1, "failures": 0, "due_at": NOW, "reason": None, "study_instance_uid": "1.2", "items": 1,
            "delivered": delivered, "rejected": 0, "created_at": NOW, "updated_at": NOW,
        } | more
    )  # fmt: skip


def test_where_a_study_is_not_comes_first_with_what_the_rule_wants_and_what_was_found():
    routes = [
        a_route("all", ("pacs",), ("always", True, ""), matched=True),
        a_route("chest", ("ai",), ("Modality is CT", True, "CT (header)"), ("Part is CHEST", False, "HEAD (header)")),
    ]  # fmt: skip
    assert whereabouts(routes, [sent(4, "pacs")]) == [
        Whereabouts("ai", "not sent", "rule chest wants Part is CHEST, found HEAD (header)"),
        Whereabouts("pacs", "DELIVERED", "1 of 1 image delivered", 4),
    ]


def test_of_several_deliveries_the_worst_is_told_and_all_images_are_counted():
    lines = [
        sent(4, "pacs"),
        sent(5, "pacs", "DEAD", 0, reason="No such AE title."),
        sent(6, "pacs", "PENDING", 0),
    ]
    (line,) = whereabouts([], lines)
    assert line == Whereabouts("pacs", "DEAD", "1 of 3 images delivered; No such AE title.", 5)


def test_a_group_of_clauses_is_not_a_reason_but_its_parts_are():
    parts = [("one of these holds", False, ""), *((f"K{n} is 1", False, "missing") for n in range(5))]
    (line,) = whereabouts([a_route("any", ("ai",), *parts)], [])
    assert (
        line.said
        == "rule any wants K0 is 1, found missing and K1 is 1, found missing and K2 is 1, found missing and 2 more"
    )


def test_two_rules_for_one_destination_are_both_told_and_a_delivery_beats_them():
    routes = [
        a_route("a", ("ai",), ("X is 1", False, "2")),
        a_route("b", ("ai",), ("Y is 1", False, "empty")),
    ]
    (line,) = whereabouts(routes, [])
    assert line.said == "rule a wants X is 1, found 2; rule b wants Y is 1, found empty"
    (line,) = whereabouts(routes, [sent(1, "ai", "PENDING", 0, items=0, reason=None)])
    assert line == Whereabouts("ai", "PENDING", "", 1)
    assert "not planned yet" in whereabouts([a_route("a", ("ai",), matched=True)], [])[0].said
