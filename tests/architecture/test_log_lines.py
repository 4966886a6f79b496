"""Every line our code may log stands in docs/logs.md with its keys, and leads to what it is about."""

from tests.architecture.log_calls import log_calls
from tests.documented_logs import documented

CALLS = list(log_calls())
BOUND = {
    "broker.dicom.destinations.store": {"destination"},
    "broker.files.folder": {"destination"},
    "broker.hl7.sender": {"destination"},
}
"""What a module's logger was bound with."""
NAMED_BY = {"broker.hl7.listener_log", "broker.files.keeper", "workers.desk"}
"""Modules with a line whose event is given by their caller, or that hands an attempt to `say`."""
LINKS = (
    ("broker.dicom.services", {"association", "queries"}),
    ("broker.dicom.network.requests", {"association"}),
    ("broker.dicom.network.association", {"association"}),
    ("broker.dicom.destinations", {"destination"}),
    ("broker.files.folder", {"delivery"}),
    ("broker.hl7.intake", {"message", "peer", "peers"}),
    ("broker.hl7.sender", {"delivery"}),
    ("workers.desk", {"delivery"}),
)
"""On the way of an order or an image: one of these keys stands in each line of these modules."""


def test_every_line_is_documented_with_its_level_and_keys():
    told, known = documented(), set()
    for call in CALLS:
        assert call.events or call.module in NAMED_BY, f"{call.module}:{call.line} logs a text that is made"
        for event in call.events:
            levels, keys = told.get(event, (set(), set()))
            level = "error" if call.level == "exception" else call.level
            assert level in levels, f"{event!r} ({level}) of {call.module}:{call.line} is not in docs/logs.md"
            wanted = (call.keys | BOUND.get(call.module, set())) - {"exc_info"}
            assert wanted <= keys, f"{event!r}: docs/logs.md lacks {sorted(wanted - keys)}"
            known.add(event)
    assert set(told) == known


def test_events_are_words():
    for call in CALLS:
        for event in call.events:
            assert "_" not in event, event


def test_every_line_on_the_way_of_an_order_or_image_leads_to_it():
    seen = 0
    for call in CALLS:
        for module, links in LINKS:
            if call.module.startswith(module) and call.events:
                seen += 1
                keys = call.keys | BOUND.get(call.module, set())
                assert keys & links, f"{call.module}:{call.line} has none of {sorted(links)}"
    assert seen > 25
