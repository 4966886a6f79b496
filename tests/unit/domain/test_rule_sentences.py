"""A route in one sentence."""

import pytest

from broker.dicom.objects.header import known_keyword
from broker.domain.rule_sentences import sentence_of
from broker.domain.rules import compile_routes


@pytest.mark.parametrize(
    ("route", "sentence"),
    [
        ({"send": ["archive"]}, "Whatever comes: it goes to archive."),
        (
            {
                "when": {"Modality": "CT", "not": {"ImageType": "*LOCALIZER*"}},
                "send": ["ai", "archive"],
                "unit": "series",
            },
            (
                "When Modality is CT, but not when ImageType is like *LOCALIZER*: "
                "each series, when complete, goes to ai and archive."
            ),
        ),
        (
            {
                "when": {"any": [{"Modality": "MR"}, {"Modality": "CT", "not": {"StationName": "T1"}}]},
                "send": ["a", "b", "c"],
                "unit": "instance",
                "stop": True,
            },
            (
                "When (Modality is MR or (Modality is CT and not (StationName is T1))): "
                "each image goes at once to a, b and c. No later rule is asked."
            ),
        ),
        (
            {"when": {"PatientAge": {"max": "017Y"}}, "send": ["a"], "unit": "study"},
            "When PatientAge is at most 017Y: each study, when complete, goes to a.",
        ),
    ],
)
def test_a_route_is_one_sentence(route, sentence):
    (compiled,) = compile_routes([{"name": "r", **route}], known_keyword=known_keyword).routes
    assert sentence_of(compiled) == sentence
