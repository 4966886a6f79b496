"""Objects that lie about themselves are pictures or typed errors, and cost no more than the limits say."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import config as pydicom_config
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from broker.dicom.objects.codestreams import Unrenderable
from broker.dicom.objects.pixels import PixelLimits, StoredImage
from broker.dicom.objects.rendering import render
from tests.parcels import an_image, save
from tests.unit.dicom.rendering.pictures import encapsulated, multi_frame


@pytest.mark.parametrize(
    "lie",
    [
        {"Rows": 65535, "Columns": 65535},
        {"Rows": 0},
        {"Rows": None},
        {"BitsAllocated": 7},
        {"SamplesPerPixel": 200},
        {"PixelData": b"\0\0"},
        {"PixelData": None},
        {"PhotometricInterpretation": None},
        {"PhotometricInterpretation": "PALETTE COLOR"},
    ],
)
def test_a_header_that_lies_is_a_typed_error(shown, lie):
    with pytest.raises(Unrenderable) as refused:
        shown(an_image(**lie))
    assert "ZZ" not in str(refused.value)


@pytest.mark.parametrize("frames", ["0", "-3", "999999999", "a"])
def test_any_number_of_frames_is_a_picture_or_a_typed_error(shown, frames, monkeypatch):
    monkeypatch.setattr(pydicom_config.settings, "_reading_validation_mode", pydicom_config.IGNORE)
    ds = an_image()
    ds.add_new("NumberOfFrames", "LO", frames)
    said = ""
    try:
        assert shown(ds).pixels.shape == (16, 16)
    except Unrenderable as error:
        said = str(error)
    assert "ZZ" not in said


def jpeg_2000_claiming(rows, columns, components=1):
    ds = an_image(rows=64, columns=64)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.compress(JPEG2000Lossless, generate_instance_uid=False)
    frame = bytearray(ds.PixelData[16:])
    start = frame.index(b"\xff\x4f\xff\x51")
    frame = frame[start:]
    struct.pack_into(">2I", frame, 8, columns, rows)
    struct.pack_into(">H", frame, 40, components)
    return encapsulated(an_image(rows=64, columns=64), bytes(frame), JPEG2000Lossless)


@pytest.mark.parametrize(
    "ds",
    [
        jpeg_2000_claiming(60000, 60000),
        jpeg_2000_claiming(64, 64, components=16000),
        encapsulated(an_image(), b"\x00\x00\x00\x0cjP  \r\n\x87\n" + b"\0" * 64, JPEG2000Lossless),
        encapsulated(
            an_image(), b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x01" + b"\0" * 64, JPEGBaseline8Bit
        ),
        encapsulated(an_image(), b"\xff\xd8" + b"\xff" * 1000, JPEGBaseline8Bit),
        encapsulated(an_image(), b"\xff\xd8\xff\xe0\x00\x00" * 10, JPEGLSLossless),
        encapsulated(an_image(), b"\0\0", JPEGLSLossless),
        encapsulated(an_image(), struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\x00" * 4000, RLELossless),
        encapsulated(
            an_image(), struct.pack("<16I", 2, 64, 2**32 - 1, *[0] * 13) + b"\x81\x00" * 400, RLELossless
        ),
        encapsulated(an_image(), b"\0" * 200, MPEG2MPML),
    ],
    ids=[
        "j2k size",
        "j2k components",
        "jp2 box of length 0",
        "jpeg size",
        "jpeg fill",
        "jpeg-ls segment of length 0",
        "empty",
        "rle bomb",
        "rle offsets",
        "video",
    ],
)
@pytest.mark.timeout(60)
def test_a_codestream_that_lies_never_reaches_a_decoder(shown, ds):
    with pytest.raises(Unrenderable):
        shown(ds)


def test_a_deflate_bomb_stops_at_the_limit(tmp_path):
    ds = an_image()
    path = save(ds, tmp_path / "image.dcm")
    meta_end = 144 + int.from_bytes(path.read_bytes()[140:144], "little")
    deflater = zlib.compressobj(wbits=-15)
    packed = deflater.compress(path.read_bytes()[meta_end:] + b"\0" * (8 << 20)) + deflater.flush()
    head = an_image(SOPInstanceUID=ds.SOPInstanceUID)
    head.file_meta = FileMetaDataset()
    head.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    bomb = save(head, tmp_path / "bomb.dcm")
    meta = bomb.read_bytes()
    bomb.write_bytes(meta[: 144 + int.from_bytes(meta[140:144], "little")] + packed)
    with pytest.raises(Unrenderable, match="inflates"):
        StoredImage(bomb, PixelLimits(max_inflated_bytes=1 << 20))


def test_deep_nesting_is_a_typed_error_or_skipped(tmp_path):
    item, end, sequence = (
        b"\xfe\xff\x00\xe0\xff\xff\xff\xff",
        b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0",
        b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff",
    )
    path = save(an_image(), tmp_path / "image.dcm")
    data = path.read_bytes()
    meta_end = 144 + int.from_bytes(data[140:144], "little")
    deep = (sequence + item) * 5000 + end * 5000
    path.write_bytes(data[:meta_end] + deep + data[meta_end:])
    with pytest.raises(Unrenderable):
        StoredImage(path)


def test_a_header_of_countless_items_stops_at_the_limit(tmp_path):
    path = save(an_image(), tmp_path / "image.dcm")
    data = path.read_bytes()
    meta_end = 144 + int.from_bytes(data[140:144], "little")
    many = (
        b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff"
        + b"\xfe\xff\x00\xe0\0\0\0\0" * 20_000
        + b"\xfe\xff\xdd\xe0\0\0\0\0"
    )
    path.write_bytes(data[:meta_end] + many + data[meta_end:])
    with pytest.raises(Unrenderable, match="finely divided"):
        StoredImage(path, PixelLimits(max_header_reads=10_000))


def test_functional_groups_beyond_the_limit_are_refused(tmp_path):
    ds = multi_frame()
    ds.PerFrameFunctionalGroupsSequence = Sequence([Dataset() for _ in range(50)])
    buffer = io.BytesIO()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dcmwrite(buffer, ds, enforce_file_format=True)
    path = tmp_path / "image.dcm"
    path.write_bytes(buffer.getvalue())
    with (
        StoredImage(path, PixelLimits(max_functional_groups=10)) as image,
        pytest.raises(Unrenderable, match="groups"),
    ):
        image.frame(0)


def test_a_missing_file_is_a_typed_error(tmp_path):
    with pytest.raises(Unrenderable) as refused:
        StoredImage(tmp_path / "gone.dcm")
    assert "gone" not in str(refused.value)


@given(st.binary(max_size=400), st.integers(0, 700))
@settings(max_examples=150, deadline=None)
def test_damaged_files_are_pictures_or_typed_errors(tmp_path_factory, noise, at):
    path = save(an_image(), tmp_path_factory.mktemp("damage") / "image.dcm")
    data = bytearray(path.read_bytes())
    data[at : at + len(noise)] = noise
    path.write_bytes(data)
    said = ""
    try:
        assert render(path, max_side_pixels=32).size
    except Unrenderable as error:
        said = str(error)
    assert "ZZTEST" not in said
