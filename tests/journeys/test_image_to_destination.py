"""Image -> stored -> rule -> Celery -> destination -> retry (RAD-8), with DCMTK as scanner, archive and CAD."""

from pathlib import Path

import hl7.client
import pytest
from pydicom import dcmread

from tests.broker_process import wait_until
from tests.journeys.hl7_orders import orm
from tests.journeys.images import an_image, push, study
from tests.peers import data_set_bytes, findscu, run, storescp

pytestmark = [pytest.mark.peer, pytest.mark.slow, pytest.mark.timeout(400)]


def received(folder):
    return sorted(Path(folder).glob("*"))


def kept(broker, uid):
    """What the broker itself has of an object."""
    files = (broker.data_dir / "images").rglob("*.dcm")
    return next(
        path for path in files if dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID == uid
    )


def without_lengths(path):
    """A data set's elements; storescu drops padding (FFFC,FFFC) and group lengths."""
    ds = dcmread(path)
    return {e.tag: e.value for e in ds if e.tag.element and e.tag != 0xFFFCFFFC and e.tag != 0x7FE00010} | {
        "pixels": ds.get("PixelData")
    }


def settled(broker, ds):
    """Answer whether every delivery of a study is done: a peer that answered has closed its files."""
    states = {row["state"] for row in broker.json("deliveries", "list", "--study", ds.StudyInstanceUID)}
    return states == {"DELIVERED"}


@pytest.fixture(scope="module")
def archive(ports, folder):
    with storescp(folder / "archive", ports["archive"]):
        yield folder / "archive"


@pytest.fixture(scope="module")
def cad(ports, folder):
    with storescp(folder / "cad", ports["cad"], ae_title="CAD"):
        yield folder / "cad"


def test_an_image_of_an_order_reaches_cad_and_archive_byte_for_byte(broker, archive, cad, tmp_path):
    with hl7.client.MLLPClient("127.0.0.1", broker.hl7) as client:
        client.send_message(orm(accession="B1", patient_id="PB1", name="BACH^JOHANN"))
    (entry,) = findscu(broker.dicom, "0008,0050=B1", "0020,000D", "0010,0020")
    path, ds = an_image(
        tmp_path,
        StudyInstanceUID=entry["0020,000d"],
        AccessionNumber="B1",
        PatientID="PB1",
        PatientName="BACH^JOHANN",
        PatientBirthDate="17320331",
        PatientSex="M",
    )

    push(broker, path)

    wait_until(lambda: settled(broker, ds), what="settling")
    for folder in (archive, cad):
        (got,) = [p for p in received(folder) if ds.SOPInstanceUID in p.name]
        # What left is what came; what came is what the scanner had (storescu encodes lengths its own way).
        assert data_set_bytes(got) == data_set_bytes(kept(broker, ds.SOPInstanceUID))
        assert without_lengths(got) == without_lengths(path)
    assert study(broker, ds.StudyInstanceUID)["state"] == "ROUTED"
    explained = {row["route"]: row for row in broker.json("routes", "explain", ds.StudyInstanceUID)}
    assert explained["chest-to-cad"]["matched"]
    assert not explained["us-to-late"]["matched"]
    assert any(
        "Modality" in clause["clause"] and not clause["holds"]
        for clause in explained["us-to-late"]["clauses"]
    )


def test_an_image_without_an_order_goes_to_the_archive_and_not_to_cad(broker, archive, cad, tmp_path):
    path, ds = an_image(tmp_path, AccessionNumber="NOSUCH", PatientID="NOBODY")
    push(broker, path)
    wait_until(lambda: any(ds.SOPInstanceUID in p.name for p in received(archive)))
    assert not any(ds.SOPInstanceUID in p.name for p in received(cad))


def test_what_no_route_takes_is_kept_and_shown(broker, tmp_path):
    path, ds = an_image(tmp_path, Modality="XA")
    push(broker, path)
    row = wait_until(
        lambda: (found := study(broker, ds.StudyInstanceUID)) and found["state"] == "UNROUTED" and found
    )
    assert row["instances"] == 1


def test_a_destination_that_is_down_gets_everything_when_it_is_back(broker, ports, folder, tmp_path):
    images = [
        an_image(tmp_path, Modality="US", StudyInstanceUID="1.2.3.77", SeriesInstanceUID="1.2.3.77.1")
        for _ in range(5)
    ]
    push(broker, *[path for path, _ in images])
    row = wait_until(
        lambda: next(
            (r for r in broker.api("deliveries?destination=late") if r["reason"] and r["items"] == 5), None
        ),
        what="a first failed try",
    )
    assert row["delivered"] == 0

    with storescp(folder / "late", ports["late"], ae_title="LATE"):
        wait_until(lambda: len(received(folder / "late")) == 5, timeout_s=150, what="delivery")
        wait_until(lambda: broker.api("deliveries?destination=late")[0]["state"] == "DELIVERED")


def test_the_same_image_again_is_taken_once(broker, archive, tmp_path):
    path, ds = an_image(tmp_path, Modality="MR")
    push(broker, path)
    push(broker, path)
    wait_until(lambda: any(ds.SOPInstanceUID in p.name for p in received(archive)))
    assert study(broker, ds.StudyInstanceUID)["instances"] == 1


RECODED_BY_DCMSEND = {"image_dfl.dcm", "ExplVR_BigEnd.dcm", "MR_small_jpeg_ls_lossless.dcm", "SC_rgb_rle.dcm"}


@pytest.mark.parametrize(
    "source",
    [
        "JPEG2000.dcm",
        "SC_rgb_rle.dcm",
        "JPEG-lossy.dcm",
        "image_dfl.dcm",
        "ExplVR_BigEnd.dcm",
        "rtplan.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
    ],
)
def test_every_transfer_syntax_arrives_as_it_was_sent(broker, archive, tmp_path, source):
    path, ds = an_image(tmp_path, source, Modality="MR")
    run(
        "dcmsend",
        "-nh",
        "--decompress-never",
        "-aet",
        "CT1",
        "-aec",
        "BROKER",
        "127.0.0.1",
        broker.dicom,
        path,
        check=False,
    )
    wait_until(lambda: settled(broker, ds), what=source)
    (got,) = [p for p in received(archive) if ds.SOPInstanceUID in p.name]
    assert data_set_bytes(got) == data_set_bytes(kept(broker, ds.SOPInstanceUID))
    if source not in RECODED_BY_DCMSEND:
        assert without_lengths(got) == without_lengths(path)


def test_explain_says_what_would_happen_to_a_file(broker, tmp_path):
    path, _ = an_image(tmp_path, Modality="US")
    explained = {row["route"]: row for row in broker.json("routes", "explain", path)}
    assert explained["us-to-late"]["matched"]
    assert explained["us-to-late"]["destinations"] == ["late"]


def test_a_folder_and_the_archive_can_be_checked(broker, archive):
    rows = {row["destination"]: row for row in broker.json("destinations", "check", "archive", "copies")}
    assert rows["archive"]["ok"]
    assert rows["copies"]["ok"]


def test_images_that_came_before_their_order_are_joined_when_it_comes(broker, tmp_path):
    path, ds = an_image(
        tmp_path, Modality="XA", PatientID="PB9", AccessionNumber="B9", PatientName="LATE^ORDER"
    )
    push(broker, path)
    wait_until(lambda: (found := study(broker, ds.StudyInstanceUID)) and found["state"] == "UNROUTED")

    with hl7.client.MLLPClient("127.0.0.1", broker.hl7) as client:
        client.send_message(
            orm(accession="B9", patient_id="PB9", name="LATE^ORDER", study_uid=ds.StudyInstanceUID)
        )

    assert study(broker, ds.StudyInstanceUID)["order_id"] is not None
