"""The simulated peers among themselves: a verdict is worth no more than those who give it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE

from broker.bootstrap import read_site
from broker.demo.cases import CHEST, HEAD, KNEE, ORDERS
from broker.demo.hl7_messages import (
    acknowledge,
    cancel_message,
    order_message,
    read_acknowledgement,
    read_status,
    update_message,
)
from broker.demo.pixels import CR_PLATE, CT_SLICE, MR_SLICE, make_image
from broker.demo.printer import (
    FILM_BOX,
    FILM_SESSION,
    IMAGE_BOX,
    META_CLASS,
    Printer,
    grid_of,
    lay_out,
    picture_of,
)
from broker.demo.ris import Ris
from broker.demo.scanner import data_set_sha256
from broker.demo.site import Ports, site_file
from broker.demo.storage_peer import StoragePeer

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)


def segments(message):
    return {line.split("|")[0]: line.split("|") for line in message.text.split("\r") if line}


def an_image(kind=CT_SLICE):
    image = make_image(kind, number=1, series_instance_uid=generate_uid(), now=NOW)
    image.PatientName, image.PatientID, image.StudyInstanceUID = "A^B", "1", generate_uid()
    return image


# ---- RIS -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ORDERS, ids=lambda case: case.key)
def test_every_order_names_patient_and_accession_in_its_dialect(case):
    found = segments(order_message(case, control_id="X1", now=NOW, start=NOW))
    assert found["MSH"][8].startswith(case.dialect)
    assert found["MSH"][17] == case.character_set.split(":")[0]
    assert found["PID"][3].startswith(case.patient_id)
    accession = found["IPC"][1] if case.dialect == "OMI" else found["OBR"][18]
    assert accession == case.accession_number


def test_a_cancellation_says_ca_and_an_update_has_no_order():
    assert segments(cancel_message(HEAD, control_id="X", now=NOW, start=NOW))["ORC"][1] == "CA"
    assert "ORC" not in segments(update_message(HEAD, control_id="X", now=NOW))


def test_texts_are_encoded_as_msh_18_says():
    assert "Müller".encode("latin-1") in order_message(CHEST, control_id="X", now=NOW, start=NOW).encoded
    assert "Ελένη".encode() in order_message(KNEE, control_id="X", now=NOW, start=NOW).encoded


def test_the_ris_hears_and_answers_over_a_socket(tmp_path):
    ports = Ports.free()
    status = (
        "MSH|^~\\&|BROKER|H|DEMORIS|H|20261121||ORM^O01|77|P|2.3.1\rPID|1\r"
        "ORC|SC|P1001^DEMORIS|||IP\rOBR|1" + "|" * 17 + "A26-1001\r"
    )
    with Ris(ports.ris, ports.ris) as ris:
        message = replace(order_message(CHEST, control_id="77", now=NOW, start=NOW), text=status)
        done = ris.send(message)
    assert done.accepted
    assert ris.heard_of("P1001") == ["IP"]
    assert ris.statuses[0].accession_number == "A26-1001"


def test_an_answer_for_another_message_is_not_an_acceptance():
    data = order_message(CHEST, control_id="77", now=NOW, start=NOW).encoded
    assert read_acknowledgement(acknowledge(data, now=NOW)) == ("AA", "77")
    assert read_acknowledgement(b"rubbish") == ("", "")
    assert read_status(b"rubbish").order_status == ""


# ---- scanners, CAD and archive -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [CT_SLICE, MR_SLICE, CR_PLATE], ids=lambda kind: kind.modality)
def test_images_carry_real_pixels(kind):
    pixels = an_image(kind).pixel_array
    assert pixels.ndim == 2
    assert len(np.unique(pixels)) > 50


def test_what_is_hashed_is_what_arrives():
    image = an_image()
    with StoragePeer("PACS", Ports.free().archive) as peer:
        peer.switch_on()
        entity = AE(ae_title="CT1")
        entity.add_requested_context(image.SOPClassUID, ExplicitVRLittleEndian)
        association = entity.associate("127.0.0.1", peer.port, ae_title="PACS")
        assert association.send_c_store(image).Status == 0
        broken = an_image()
        broken.PixelData = b"\x00" * 10
        assert association.send_c_store(broken).Status == 0xC000
        association.release()
    (received,) = peer.received
    assert received.sha256 == data_set_sha256(image)
    assert received.pixels == (128, 128)
    image.PatientName = "SOMEBODY^ELSE"
    assert received.sha256 != data_set_sha256(image)


# ---- printer -------------------------------------------------------------------------------------------


def an_image_box(pixels, bits=8, photometric="MONOCHROME2"):
    item = Dataset()
    item.Rows, item.Columns = pixels.shape
    item.BitsAllocated, item.BitsStored = (8, 8) if bits == 8 else (16, bits)
    item.PhotometricInterpretation = photometric
    item.PixelData = pixels.astype("u1" if bits == 8 else "<u2").tobytes()
    box = Dataset()
    box.BasicGrayscaleImageSequence = [item]
    return box


def test_pictures_are_read_in_8_and_12_bits_and_inverted_once():
    ramp = np.arange(256).reshape(16, 16)
    assert (picture_of(an_image_box(ramp)) == ramp).all()
    assert (picture_of(an_image_box(ramp, photometric="MONOCHROME1")) == 255 - ramp).all()
    assert picture_of(an_image_box(ramp * 16, bits=12)).max() == 254
    with pytest.raises(ValueError, match="Bits Stored"):
        picture_of(an_image_box(np.full((2, 2), 5000), bits=12))


def test_a_film_is_laid_out_row_by_row_without_distortion():
    box = Dataset()
    box.ImageDisplayFormat, box.FilmSizeID = "STANDARD\\2,1", "8INX10IN"
    white = np.full((100, 100), 255, dtype=np.uint8)
    page = lay_out(box, [white, None])
    assert page.shape == (750, 600)
    lit = np.argwhere(page > 128)
    height, width = lit.max(axis=0) - lit.min(axis=0)
    assert height == width
    assert lit[:, 1].max() < 300
    assert grid_of("STANDARD\\3,2") == (3, 2)
    with pytest.raises(ValueError, match="STANDARD"):
        grid_of("SLIDE")


def test_a_film_is_printed_over_a_socket(tmp_path):
    port = Ports.free().printer
    with Printer("FILM", port, tmp_path) as printer:
        entity = AE()
        entity.add_requested_context(META_CLASS)
        association = entity.associate("127.0.0.1", port, ae_title="FILM")
        session = Dataset()
        session.NumberOfCopies = 2
        status, _ = association.send_n_create(session, FILM_SESSION, "1.2.3", meta_uid=META_CLASS)
        assert status.Status == 0
        film = Dataset()
        film.ImageDisplayFormat = "STANDARD\\1,1"
        status, answer = association.send_n_create(film, FILM_BOX, "1.2.4", meta_uid=META_CLASS)
        box = answer.ReferencedImageBoxSequence[0].ReferencedSOPInstanceUID
        ramp = an_image_box(np.arange(256).reshape(16, 16))
        status, _ = association.send_n_set(ramp, IMAGE_BOX, box, meta_uid=META_CLASS)
        assert status.Status == 0
        status, _ = association.send_n_set(ramp, IMAGE_BOX, "1.2.99", meta_uid=META_CLASS)
        assert status.Status == 0x0112
        status, _ = association.send_n_action(None, 1, FILM_BOX, "1.2.4", meta_uid=META_CLASS)
        assert status.Status == 0
        association.send_n_delete(FILM_SESSION, "1.2.3", meta_uid=META_CLASS)
        association.release()
    (printed,) = printer.films
    assert printed.path.exists()
    assert printed.copies == 2
    assert printer.problems == []


# ---- site ----------------------------------------------------------------------------------------------


def test_the_site_file_of_the_demo_is_valid(tmp_path):
    path = tmp_path / "broker.yaml"
    path.write_text(site_file(Ports.free()))
    loaded = read_site(path, {})
    assert set(loaded.site.destinations) == {"ai-chest", "archive", "film", "ris"}
