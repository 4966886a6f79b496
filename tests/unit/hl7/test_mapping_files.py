"""The files that say how a message is read: what a site changes in them, and its mistakes."""

from pathlib import Path

import pytest

from broker.domain.orders import OrderAction
from broker.hl7.mapping import MappingSet
from broker.hl7.mapping_file import MappingFileError
from tests.unit.hl7.messages import obr, orc, orm
from tests.unit.hl7.reading import BERLIN, read, the_order, the_step


# --- files of a site ---------------------------------------------------------------------------------------
def site(tmp_path: Path, **files: str) -> MappingSet:
    for name, body in files.items():
        (tmp_path / f"{name}.yaml").write_text(body, encoding="utf-8")
    return MappingSet.load(tmp_path, site_zone=BERLIN)


def test_a_site_changes_single_rules_and_keeps_the_rest(tmp_path):
    mappings = site(tmp_path, default="order:\n  AccessionNumber: { from: [ORC-3.1], as: identifier }\n")
    order = the_order(orm(), mappings)
    assert order.accession_number == "F100"
    assert order.changes["RequestingPhysician"] == "REQUEST^RON"


def test_a_sender_gets_its_own_file(tmp_path):
    body = "senders: [{ application: 'RI?' }]\norder_actions:\n  NW: { SC: ignore }\n"
    mappings = site(tmp_path, ris=body)
    assert read(orm(), mappings).ignored
    assert the_order(orm().replace("|RIS|HOSP|", "|HIS|HOSP|"), mappings).action is OrderAction.PLACE


def test_null_takes_a_rule_away(tmp_path):
    mappings = site(tmp_path, default="patient:\n  PatientAddress:\nmodalities: { LAB: OT }\n")
    text = orm(orc(), obr(modality="LAB"))
    assert the_step(text, mappings).changes["Modality"] == "OT"


def test_stations_follow_the_first_rule_that_fits(tmp_path):
    body = (
        "stations:\n"
        "  - { when: { modality: CT, PV1-3.1: 'ER*' }, ae_titles: [CTER], location: ER }\n"
        "  - { when: { modality: [CT, MR], procedure_code: 'CT*' }, ae_titles: [CT1, CT2], names: SCAN }\n"
    )
    mappings = site(tmp_path, default=body)
    assert the_step(orm(), mappings).changes["ScheduledStationAETitle"] == ("CT1", "CT2")
    assert (
        the_step(orm().replace("|RAD^R1", "|ER3^R1"), mappings).changes["ScheduledProcedureStepLocation"]
        == "ER"
    )
    assert "ScheduledStationAETitle" not in the_step(orm(orc(), obr(modality="US")), mappings).changes


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("patient:\n  PatientNam: { from: PID-5 }\n", "2:3: patient.PatientNam: is not a DICOM keyword"),
        ("step:\n  Modality: { from: OBR-24, as: modalty }\n", "2:29: step.Modality.as: is not a converter"),
        ("step:\n  Modality: { from: OBR24 }\n", "2:15: step.Modality.from: OBR24: a field path looks like"),
        ("order_actions:\n  NW: { '': plaice }\n", "plaice is not one of"),
        ("orders: {}\n", "1:1: orders: is not a known key"),
        ("patient: [\n", "default.yaml:2:1: expected the node content"),
        ("- a\n", "must be a mapping"),
        ("reception: { conflict: maybe }\n", "1:14: reception.conflict"),
        ("reception: { character_set: KLINGON }\n", "is not a character set"),
        ("stations: [{ when: { colour: red } }]\n", "a field path looks like"),
        ("stations: [{ ae_titles: [THIS_AE_TITLE_IS_TOO_LONG] }]\n", "an AE title has 1 to 16"),
        ("step:\n  ScheduledProcedureStepBegin: { from: OBR-6, as: date_time }\n", "before Date and Time"),
        ("patient:\n  PatientSex: { as: sex }\n", "needs `from`"),
    ],
)
def test_mistakes_are_told_with_their_place(tmp_path, body, complaint):
    with pytest.raises(MappingFileError) as caught:
        site(tmp_path, default=body)
    assert complaint in str(caught.value)
    assert str(tmp_path / "default.yaml") in str(caught.value)


def test_all_mistakes_of_all_files_are_told_at_once(tmp_path):
    with pytest.raises(MappingFileError) as caught:
        site(
            tmp_path,
            default="patient: { X: { from: PID-1 } }\nstep: { Y: { from: PID-1 } }\n",
            other="order: {}\n",
        )
    assert len(caught.value.problems) == 3
