"""MPPS -> status -> RIS feedback (RAD-6, RAD-7), with dcmjs-dimse as the modality."""

from pathlib import Path

import hl7.client
import pytest

from tests.broker_process import wait_until
from tests.journeys.hl7_orders import orm
from tests.peers import findscu, node

pytestmark = [pytest.mark.peer, pytest.mark.slow, pytest.mark.timeout(400)]
SCRIPT = Path(__file__).with_name("mpps.js")


def place(broker, accession):
    with hl7.client.MLLPClient("127.0.0.1", broker.hl7) as client:
        client.send_message(orm(accession=accession, patient_id=f"P{accession}"))


def statuses_for(ris, accession):
    """ORC-5 of the messages the RIS got about an order, in their order."""
    found = []
    for message in list(ris.messages):
        segments = {line.split("|")[0]: line.split("|") for line in message.split("\r") if line}
        if segments.get("ORC", [""] * 4)[3].split("^")[0] == f"FI{accession}":
            found.append((segments["ORC"][1], segments["ORC"][5]))
    return found


def step(broker, accession):
    rows = broker.json("worklist", "list", "--limit", "500")
    return next(row["status"] for row in rows if row["accession_number"] == accession)


def test_an_exam_that_is_done_is_off_the_list_and_the_ris_hears_start_and_end(broker, ris):
    place(broker, "M1")

    seen = node(SCRIPT, broker.dicom, "M1", "COMPLETED")

    # The second N-SET comes after the final one: 0110 (PS3.4 F.7.2.2).
    assert seen == {"entries": 1, "statuses": [0x0000, 0x0000, 0x0110], "whileRunning": 0}
    assert step(broker, "M1") == "COMPLETED"
    assert findscu(broker.dicom, "0008,0050=M1") == []
    wait_until(lambda: statuses_for(ris, "M1") == [("SC", "IP"), ("SC", "CM")], what="both messages")


def test_an_exam_under_way_is_started_and_hidden_from_other_modalities(broker, ris):
    place(broker, "M2")
    seen = node(SCRIPT, broker.dicom, "M2", "none")
    assert seen["statuses"] == [0x0000]
    assert seen["whileRunning"] == 0
    assert step(broker, "M2") == "STARTED"
    wait_until(lambda: statuses_for(ris, "M2") == [("SC", "IP")])


def test_an_exam_discontinued_with_images_is_reported_as_such(broker, ris):
    place(broker, "M3")
    node(SCRIPT, broker.dicom, "M3", "DISCONTINUED")
    assert step(broker, "M3") == "DISCONTINUED"
    wait_until(lambda: statuses_for(ris, "M3") == [("SC", "IP"), ("SC", "DC")])
