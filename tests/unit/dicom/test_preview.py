"""Previews: small, whatever the compression; a tile that says why where there is none; bounded in number and bytes."""

import io

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless

from broker.dicom.objects.preview import MAX_WAITING, SIDE_PIXELS, Previews
from broker.errors import OutOfResources
from tests.parcels import an_image, save

CT, REPORT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.88.11"
PRIVATE = "1.2.826.0.1.3680043.10.777.99"


@pytest.fixture(scope="module")
def previews():
    made = Previews(max_seconds=60.0)
    yield made
    made.close()


def ask(previews, path, *, sop_class=CT, syntax=ExplicitVRLittleEndian):
    return previews.of(path, sop_class_uid=sop_class, transfer_syntax_uid=str(syntax))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEGLSLossless])
def test_an_image_is_shown_small(previews, tmp_path, syntax):
    ds = an_image(rows=600, columns=300)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if syntax != ExplicitVRLittleEndian:
        ds.compress(syntax, generate_instance_uid=False)
    preview = ask(previews, save(ds, tmp_path / "image.dcm"), syntax=syntax)
    assert preview.media_type == "image/png"
    picture = Image.open(io.BytesIO(preview.body))
    assert picture.size == (SIDE_PIXELS // 2, SIDE_PIXELS)
    assert picture.info == {}, "nothing of the header"


def test_a_made_preview_is_kept_and_the_oldest_go(tmp_path):
    previews = Previews(max_seconds=60.0, max_kept_bytes=1)
    try:
        path = save(an_image(pixels=np.zeros((8, 8), dtype=np.uint16)), tmp_path / "image.dcm")
        ask(previews, path)
        assert previews._kept_bytes == 0, "larger than all that may be kept"
        previews._max_kept_bytes = 1 << 20
        first = ask(previews, path)
        path.unlink()
        assert ask(previews, path) is first
    finally:
        previews.close()


def test_what_is_no_image_and_what_is_damaged_says_so(previews, tmp_path):
    report = an_image()
    for keyword in ("PixelData", "Rows", "Columns"):
        delattr(report, keyword)
    tile = ask(previews, save(report, tmp_path / "report.dcm"), sop_class=REPORT)
    assert tile.media_type == "image/svg+xml"
    assert b"Basic Text SR" in tile.body
    assert b"has no picture" in tile.body
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(b"\x00" * 128 + b"DICM" + b"\xff" * 400)
    tile = ask(previews, broken, syntax=JPEG2000Lossless)
    assert b"JPEG 2000" in tile.body
    assert b"not decoded here" in tile.body
    assert b"private class" not in ask(previews, tmp_path / "gone.dcm", sop_class=PRIVATE).body


def test_too_many_at_once_are_refused_and_the_places_come_back(previews, tmp_path):
    path = save(an_image(), tmp_path / "image.dcm")
    for _ in range(MAX_WAITING):
        assert previews._places.acquire(blocking=False)
    try:
        with pytest.raises(OutOfResources):
            ask(previews, path)
    finally:
        for _ in range(MAX_WAITING):
            previews._places.release()
    assert ask(previews, path).media_type == "image/png"
