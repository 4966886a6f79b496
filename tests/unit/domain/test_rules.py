"""Routes: what each operator promises, what compiling refuses, and that explanations agree with decisions."""

from __future__ import annotations

import time
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from broker.dicom.objects.header import known_keyword
from broker.domain.conditions import Operator
from broker.domain.facts import ORDER_FIELDS, Source
from broker.domain.rules import Routes, RouteSyntaxError, Unit, compile_routes, decide

VRS = {
    "Modality": "CS",
    "BodyPartExamined": "CS",
    "ImageType": "CS",
    "PatientName": "PN",
    "PatientID": "LO",
    "SeriesDescription": "LO",
    "SliceThickness": "DS",
    "InstanceNumber": "IS",
    "Rows": "US",
    "StudyDate": "DA",
    "StudyTime": "TM",
    "AcquisitionDateTime": "DT",
    "PatientAge": "AS",
    "StudyInstanceUID": "UI",
    "PixelData": "OW",
    "RequestAttributesSequence": "SQ",
    "ProcedureCodeSequence": "SQ",
    "ScheduledProcedureStepID": "SH",
    "CodeValue": "SH",
    "RequestedProcedureDescription": "LO",
}


def routes(when: object, **more: object) -> Routes:
    return compile_routes([{"name": "r", "when": when, "send": ["a"], **more}], known_keyword=VRS.get)


def holds(when: object, **facts: object) -> bool:
    values = {
        key.replace("__", "."): (value,) if isinstance(value, str) else tuple(value)  # type: ignore[call-overload]
        for key, value in facts.items()
    }
    decision = decide(routes(when), values)
    (verdict,) = decision.verdicts()
    assert verdict.matched is bool(decision.matched), "the explanation must agree with the decision"
    return bool(decision.matched)


@pytest.mark.parametrize(
    ("when", "facts", "expected"),
    [
        # absent or empty = always
        (None, {}, True),
        ({}, {"Modality": "CT"}, True),
        # equals; case-insensitive for AE, CS and PN only
        ({"Modality": "CT"}, {"Modality": "CT"}, True),
        ({"Modality": "CT"}, {"Modality": "MR"}, False),
        ({"Modality": "CT"}, {}, False),
        ({"Modality": "CT"}, {"Modality": []}, False),
        ({"Modality": "ct"}, {"Modality": "CT"}, True),
        ({"PatientName": "Haydn^Joseph"}, {"PatientName": "HAYDN^JOSEPH"}, True),
        ({"PatientID": "a1"}, {"PatientID": "A1"}, False),
        ({"calling_ae_title": "ct1"}, {"calling_ae_title": "CT1"}, True),
        # a multi-valued tag holds if any value does
        ({"ImageType": "PRIMARY"}, {"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"]}, True),
        # in
        ({"Modality": ["CT", "MR"]}, {"Modality": "MR"}, True),
        ({"Modality": ["CT", "MR"]}, {"Modality": "US"}, False),
        # glob
        ({"SeriesDescription": "Chest*"}, {"SeriesDescription": "Chest 5.0 B30f"}, True),
        ({"SeriesDescription": "chest*"}, {"SeriesDescription": "Chest 5.0 B30f"}, False),
        ({"SeriesDescription": "*5.? B*"}, {"SeriesDescription": "Chest 5.0 B30f"}, True),
        ({"SeriesDescription": "?hest"}, {"SeriesDescription": "hest"}, False),
        ({"SeriesDescription": "*"}, {"SeriesDescription": [""]}, False),
        ({"Modality": ["C?", "MR"]}, {"Modality": "CT"}, True),
        ({"SeriesDescription": "a.c[x]"}, {"SeriesDescription": "abcx"}, False),
        # exists and missing
        ({"Modality": {"exists": True}}, {"Modality": "CT"}, True),
        ({"Modality": {"exists": True}}, {"Modality": []}, False),
        ({"Modality": {"exists": True}}, {"Modality": [""]}, False),
        ({"Modality": {"exists": False}}, {}, True),
        ({"Modality": {"exists": False}}, {"Modality": [""]}, True),
        ({"Modality": {"exists": False}}, {"Modality": "CT"}, False),
        # range: numbers
        ({"SliceThickness": {"min": 1, "max": 2.5}}, {"SliceThickness": "2.500"}, True),
        ({"SliceThickness": {"max": 2.5}}, {"SliceThickness": "2.51"}, False),
        ({"SliceThickness": {"min": 1}}, {"SliceThickness": "thin"}, False),
        ({"SliceThickness": {"min": 1}}, {"SliceThickness": "nan"}, False),
        ({"SliceThickness": {"min": 1}}, {"SliceThickness": "1_0"}, False),
        ({"SliceThickness": {"min": 1}}, {}, False),
        ({"SliceThickness": 5}, {"SliceThickness": "5.000"}, True),
        ({"InstanceNumber": [1, 2]}, {"InstanceNumber": "2"}, True),
        ({"Rows": {"min": "512"}}, {"Rows": "512"}, True),
        # range: dates, times, ages
        ({"StudyDate": {"min": "20260101"}}, {"StudyDate": "20260101"}, True),
        ({"StudyDate": {"min": date(2026, 1, 1)}}, {"StudyDate": "20251231"}, False),
        ({"StudyDate": {"min": 20260101}}, {"StudyDate": "20261121"}, True),
        ({"StudyDate": date(2026, 1, 1)}, {"StudyDate": "20260101"}, True),
        ({"AcquisitionDateTime": {"max": "20261121"}}, {"AcquisitionDateTime": "20261121235959.5"}, True),
        ({"StudyTime": {"min": "0730", "max": "17:00"}}, {"StudyTime": "073000.123"}, True),
        ({"StudyTime": {"min": "0730", "max": "1700"}}, {"StudyTime": "0729"}, False),
        ({"PatientAge": {"min": "18Y"}}, {"PatientAge": "018Y"}, True),
        ({"PatientAge": {"min": "018Y"}}, {"PatientAge": "011M"}, False),
        ({"PatientAge": {"max": "12M"}}, {"PatientAge": "052W"}, True),
        ({"PatientAge": {"max": "6M"}}, {"PatientAge": "old"}, False),
        # not one fact: a missing one is not so
        ({"Modality": {"not": "SR"}}, {"Modality": "CT"}, True),
        ({"Modality": {"not": ["SR", "PR"]}}, {"Modality": "PR"}, False),
        ({"Modality": {"not": "SR"}}, {}, True),
        ({"ImageType": {"not": "*LOCALIZER*"}}, {"ImageType": ["ORIGINAL", "LOCALIZER"]}, False),
        ({"SliceThickness": {"min": 1, "not": 5}}, {"SliceThickness": "5.0"}, False),
        # any, all, not
        ({"any": [{"Modality": "CT"}, {"Modality": "MR"}]}, {"Modality": "MR"}, True),
        ({"any": [{"Modality": "CT"}, {"Modality": "MR"}]}, {"Modality": "US"}, False),
        ({"all": [{"ImageType": "A"}, {"ImageType": "B"}]}, {"ImageType": ["A", "B"]}, True),
        ({"all": [{"ImageType": "A"}, {"ImageType": "B"}]}, {"ImageType": ["A"]}, False),
        ({"not": {"ImageType": "*LOCALIZER*"}}, {"ImageType": ["ORIGINAL", "LOCALIZER"]}, False),
        ({"not": {"Modality": "CT", "BodyPartExamined": "HEAD"}}, {"Modality": "CT"}, True),
        ({"not": {"not": {"Modality": "CT"}}}, {"Modality": "CT"}, True),
        # every entry of a mapping must hold
        ({"Modality": "CT", "BodyPartExamined": ["CHEST", "THORAX"]}, {"Modality": "CT"}, False),
        # paths and the order
        (
            {"RequestAttributesSequence.ScheduledProcedureStepID": "SPS1"},
            {"RequestAttributesSequence__ScheduledProcedureStepID": ["SPS0", "SPS1"]},
            True,
        ),
        ({"order.accession_number": "A*"}, {"order__accession_number": "A12"}, True),
        ({"order.priority": "stat"}, {"order__priority": "STAT"}, True),
        ({"order.RequestedProcedureDescription": "CT Chest"}, {}, False),
    ],
)
def test_an_operator_holds_when_it_should(when: object, facts: dict[str, object], expected: bool) -> None:
    assert holds(when, **facts) is expected


def test_every_matching_route_fires_until_one_says_stop() -> None:
    compiled = compile_routes(
        [
            {"name": "one", "send": ["a"]},
            {"name": "two", "when": {"Modality": "CT"}, "send": ["b"], "stop": True},
            {"name": "three", "send": ["c"], "unit": "study"},
        ],
        known_keyword=VRS.get,
    )
    assert [r.name for r in decide(compiled, {"Modality": ("CT",)}).matched] == ["one", "two"]
    decision = decide(compiled, {"Modality": ("MR",)})
    assert [r.name for r in decision.matched] == ["one", "three"]
    assert decision.matched[1].unit is Unit.STUDY
    stopped = decide(compiled, {"Modality": ("CT",)}).verdicts()[2]
    assert (stopped.matched, stopped.stopped_by) == (False, "two")


def test_a_verdict_names_value_source_and_outcome_of_every_clause() -> None:
    compiled = routes(
        {
            "Modality": "CT",
            "BodyPartExamined": ["CHEST", "THORAX"],
            "order.accession_number": {"exists": True},
            "calling_ae_title": "CT*",
            "not": {"ImageType": "*LOCALIZER*"},
        }
    )
    facts = {"Modality": ("MR",), "BodyPartExamined": (), "calling_ae_title": ("CT1",)}
    (verdict,) = decide(compiled, facts).verdicts()
    assert verdict.matched is False
    clauses = {part.path: part for part in verdict.clauses.parts}
    modality = clauses["routes.0.when.Modality"]
    assert (modality.holds, modality.found, modality.source) == (False, ("MR",), Source.IMAGE)
    assert modality.sentence == "Modality is CT: MR (image header)"
    body = clauses["routes.0.when.BodyPartExamined"]
    assert (body.operator, body.sentence) == (
        Operator.IN,
        "BodyPartExamined is one of CHEST, THORAX: empty (image header)",
    )
    accession = clauses["routes.0.when.order.accession_number"]
    assert accession.sentence == "order.accession_number is present: missing (order)"
    caller = clauses["routes.0.when.calling_ae_title"]
    assert (caller.operator, caller.holds, caller.source) == (Operator.GLOB, True, Source.DEVICE)
    negation = clauses["routes.0.when.not"]
    assert (negation.operator, negation.holds, negation.parts[0].holds) == (Operator.NOT, True, False)


@pytest.mark.parametrize(
    ("raw", "path", "words"),
    [
        ("x", "routes", "list of routes"),
        ([7], "routes.0", "mapping"),
        ([{"send": ["a"]}], "routes.0", "needs a name"),
        ([{"name": "a b", "send": ["a"]}], "routes.0.name", "needs a name"),
        ([{"name": "r"}], "routes.0", "list of destinations"),
        ([{"name": "r", "send": "a"}], "routes.0.send", "list of destinations"),
        ([{"name": "r", "send": []}], "routes.0.send", "list of destinations"),
        ([{"name": "r", "send": ["a", 1]}], "routes.0.send.1", "name of a destination"),
        ([{"name": "r", "send": ["a", "a"]}], "routes.0.send.1", "twice"),
        ([{"name": "r", "send": ["a"], "uint": "series"}], "routes.0.uint", "did you mean 'unit'"),
        ([{"name": "r", "send": ["a"], "unit": "serie"}], "routes.0.unit", "did you mean 'series'"),
        ([{"name": "r", "send": ["a"], "stop": "yes"}], "routes.0.stop", "true or false"),
        ([{"name": "r", "send": ["a"]}, {"name": "r", "send": ["a"]}], "routes.1.name", "earlier route"),
        ([{"name": "r", "send": ["a"], "when": ["x"]}], "routes.0.when", "mapping"),
    ],
)
def test_a_wrong_route_is_refused_with_its_path(raw: object, path: str, words: str) -> None:
    with pytest.raises(RouteSyntaxError) as caught:
        compile_routes(raw, known_keyword=VRS.get)
    assert [(p, words in text) for p, text in caught.value.problems] == [(path, True)]


@pytest.mark.parametrize(
    ("when", "path", "words"),
    [
        ({"modality": "CT"}, "modality", "did you mean 'Modality'"),
        ({"accession_number": "1"}, "accession_number", "did you mean 'order.accession_number'"),
        ({"Modailty": "CT"}, "Modailty", "not a DICOM keyword"),
        ({"nto": {"Modality": "CT"}}, "nto", "did you mean 'not'"),
        ({"order.acession_number": "1"}, "order.acession_number", "did you mean 'accession_number'"),
        ({"PixelData": "x"}, "PixelData", "no value a rule can compare"),
        ({"ProcedureCodeSequence": "x"}, "ProcedureCodeSequence", "CodeValue"),
        ({"Modality.CodeValue": "x"}, "Modality.CodeValue", "not a sequence"),
        ({"ProcedureCodeSequence.Foo": "x"}, "ProcedureCodeSequence.Foo", "not a DICOM keyword"),
        ({"A.B.C": "x"}, "A.B.C", "more than one sequence level"),
        ({"Modality": None}, "Modality", "exists: false"),
        ({"Modality": ""}, "Modality", "exists: false"),
        ({"Modality": []}, "Modality", "could never hold"),
        ({"Modality": True}, "Modality", "true or false"),
        ({"PatientID": 42}, "PatientID", "quotes"),
        ({"PatientID": ["1", 42]}, "PatientID.1", "quotes"),
        ({"SliceThickness": "thin"}, "SliceThickness", "not a number"),
        ({"ImageType": "DERIVED\\SECONDARY"}, "ImageType", "backslash"),
        ({"SeriesDescription": "x" * 300}, "SeriesDescription", "longer than"),
        ({"Modality": {}}, "Modality", "is empty"),
        ({"Modality": {"exist": True}}, "Modality.exist", "did you mean 'exists'"),
        ({"Modality": {"missing": True}}, "Modality.missing", "exists: false"),
        ({"Modality": {"exists": "yes"}}, "Modality.exists", "true or false"),
        ({"Modality": {"min": "A"}}, "Modality", "a range needs"),
        ({"SliceThickness": {"min": "x"}}, "SliceThickness.min", "a number"),
        ({"SliceThickness": {"min": 3, "max": 2}}, "SliceThickness", "never hold"),
        ({"StudyTime": {"min": 800}}, "StudyTime.min", "in quotes"),
        ({"StudyDate": {"max": "soon"}}, "StudyDate.max", "a date"),
        ({"PatientAge": {"max": 18}}, "PatientAge.max", "an age"),
        ({"any": {"Modality": "CT"}}, "any", "list of mappings"),
        ({"any": []}, "any", "list of mappings"),
        ({"any": [{}]}, "any.0", "always hold"),
        ({"any": ["CT"]}, "any.0", "mapping"),
        ({"not": {}}, "not", "at least one entry"),
        ({"not": "CT"}, "not", "mapping"),
    ],
)
def test_a_wrong_condition_is_refused_with_its_path(when: object, path: str, words: str) -> None:
    with pytest.raises(RouteSyntaxError) as caught:
        routes(when)
    first_path, text = caught.value.problems[0]
    assert first_path == f"routes.0.when.{path}"
    assert words in text


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(RouteSyntaxError) as caught:
        compile_routes(
            [{"name": "a", "send": ["x"], "when": {"Nope": "1", "Modality": None}}, {"send": ["x"]}],
            known_keyword=VRS.get,
        )
    assert [path for path, _ in caught.value.problems] == [
        "routes.0.when.Nope",
        "routes.0.when.Modality",
        "routes.1",
    ]


def test_conditions_nested_too_deeply_are_refused_not_recursed_into() -> None:
    when: dict[str, object] = {"Modality": "CT"}
    for _ in range(5000):
        when = {"not": when}
    with pytest.raises(RouteSyntaxError, match="deeper than"):
        routes(when)


def test_a_hostile_pattern_costs_milliseconds() -> None:
    compiled = routes({"SeriesDescription": "*a" * 100 + "*b"})
    started = time.thread_time()
    assert not decide(compiled, {"SeriesDescription": ("a" * 100_000,)}).matched
    assert time.thread_time() - started < 0.5


def test_keys_say_what_the_header_scan_and_the_order_must_provide() -> None:
    compiled = routes({"Modality": "CT", "any": [{"order.priority": "STAT"}, {"calling_ae_title": "X"}]})
    assert compiled.image_keys == {"Modality"}
    assert compiled.order_keys == {"order.priority"}
    assert compiled.keys == {"Modality", "order.priority", "calling_ae_title"}


_TEXT = st.text(max_size=12)
_FACTS = st.dictionaries(
    st.sampled_from(["Modality", "SliceThickness", "StudyDate", "StudyTime", "PatientAge", "order.priority"]),
    st.lists(_TEXT, max_size=3).map(tuple),
)


@given(_FACTS)
def test_deciding_never_raises_whatever_the_facts_say(facts: dict[str, tuple[str, ...]]) -> None:
    compiled = routes(
        {
            "any": [
                {"Modality": ["C*", "?"]},
                {"SliceThickness": {"min": 1, "max": 3, "not": 2}},
                {"StudyDate": {"min": "20200101"}, "StudyTime": {"max": "1200"}},
                {"PatientAge": {"min": "018Y"}},
                {"not": {"order.priority": "STAT"}},
            ]
        }
    )
    decision = decide(compiled, facts)
    assert bool(decision.matched) is decision.verdicts()[0].matched


def test_the_examples_of_the_documentation_compile() -> None:
    text = (Path(__file__).parents[3] / "docs" / "rules.md").read_text(encoding="utf-8")
    blocks = [part.split("```")[0] for part in text.split("```yaml\n")[1:]]
    assert len(blocks) >= 2
    for block in blocks:
        loaded = YAML(typ="safe", pure=True).load(block)
        raw = loaded["routes"] if isinstance(loaded, dict) else loaded
        assert compile_routes(raw, known_keyword=known_keyword).routes


def test_every_order_field_is_documented() -> None:
    text = (Path(__file__).parents[3] / "docs" / "rules.md").read_text(encoding="utf-8")
    assert [field for field in ORDER_FIELDS if f"`{field}`" not in text] == []


def test_the_documented_operators_are_exactly_those_of_the_code() -> None:
    text = (Path(__file__).parents[3] / "docs" / "rules.md").read_text(encoding="utf-8")
    table = text.split("<!-- operators -->")[1]
    documented = {line.split("`")[1] for line in table.splitlines() if line.startswith("| `")}
    assert documented == {operator.value for operator in Operator}
