"""What a person sees is what the object says, however its frames and colours are encoded."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from broker.dicom.objects.codestreams import Unrenderable
from broker.dicom.objects.pixels import StoredImage
from broker.dicom.objects.rendering import WHITE, luminance, picture_of, quantised
from tests.parcels import an_image, save
from tests.unit.dicom.rendering.pictures import RAMP, encapsulated, multi_frame

# ---- frames --------------------------------------------------------------------------------------------


def test_the_middle_frame_is_shown_unless_another_is_asked_for(shown):
    picture = shown(multi_frame())
    assert (picture.frame, picture.frames) == (2, 5)
    assert (
        shown(multi_frame(), frame=4).pixels[0, 0]
        > picture.pixels[0, 0]
        > shown(multi_frame(), frame=0).pixels[0, 0]
    )


@pytest.mark.parametrize("frame", [-1, 5, 10**9])
def test_a_frame_that_does_not_exist_is_refused(shown, frame):
    with pytest.raises(Unrenderable):
        shown(multi_frame(), frame=frame)


def test_functional_groups_give_each_frame_its_window(shown):
    ds = multi_frame()
    del ds.WindowCenter, ds.WindowWidth
    ds.PerFrameFunctionalGroupsSequence = Sequence()
    for number in range(5):
        voi, transformation, item = Dataset(), Dataset(), Dataset()
        voi.WindowCenter, voi.WindowWidth = (number * 1000 + 1, 2)
        transformation.RescaleSlope, transformation.RescaleIntercept = 1, 1
        item.FrameVOILUTSequence = Sequence([voi])
        item.PixelValueTransformationSequence = Sequence([transformation])
        ds.PerFrameFunctionalGroupsSequence.append(item)
    values = [int(shown(ds, frame=frame).pixels[0, 0]) for frame in range(5)]
    assert values == [WHITE] * 5


# ---- encodings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_a_lossless_encoding_shows_the_same_picture(shown, syntax):
    ds = an_image(pixels=RAMP, WindowCenter=2048, WindowWidth=3000)
    plain = shown(ds).pixels
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.compress(syntax, generate_instance_uid=False)
    assert np.array_equal(shown(ds).pixels, plain)


@pytest.mark.parametrize(
    ("syntax", "order"),
    [(ImplicitVRLittleEndian, "<"), (DeflatedExplicitVRLittleEndian, "<"), (ExplicitVRBigEndian, ">")],
)
def test_every_uncompressed_encoding_shows_the_same_picture(tmp_path, shown, syntax, order):
    ds = an_image(pixels=RAMP)
    plain = shown(ds).pixels
    other = an_image(pixels=RAMP)
    other["PixelData"].VR = "OW"
    other.PixelData = RAMP.astype(f"{order}u2").tobytes()
    other.file_meta = FileMetaDataset()
    other.file_meta.TransferSyntaxUID = syntax
    with StoredImage(save(other, tmp_path / "other.dcm")) as image:
        assert np.array_equal(picture_of(image).pixels, plain)


def rgb(rows=16, columns=24):
    pixels = np.zeros((rows, columns, 3), np.uint8)
    pixels[:, :8] = (255, 0, 0)
    pixels[:, 8:16] = (0, 255, 0)
    pixels[:, 16:] = (0, 0, 255)
    return pixels


def colour_image(pixels, **attributes):
    return an_image(
        pixels=pixels,
        bits=8,
        SamplesPerPixel=3,
        PhotometricInterpretation="RGB",
        PlanarConfiguration=0,
        **attributes,
    )


def test_colour_stays_colour_in_a_preview_and_becomes_luminance_on_film(shown):
    picture = shown(colour_image(rgb()))
    assert picture.is_colour
    assert np.array_equal(quantised(picture.pixels, 8), rgb())
    gray = quantised(luminance(picture.pixels), 8)
    assert [int(gray[0, column]) for column in (0, 8, 16)] == [76, 150, 29]


def test_planar_colour_is_read_plane_by_plane(shown):
    ds = colour_image(rgb(), PixelData=np.moveaxis(rgb(), -1, 0).tobytes())
    ds.PlanarConfiguration = 1
    assert np.array_equal(quantised(shown(ds).pixels, 8), rgb())


def test_jpeg_baseline_colour_is_shown_as_rgb(shown):
    out = io.BytesIO()
    Image.fromarray(rgb()).save(out, "JPEG", quality=95, subsampling=0)
    ds = colour_image(rgb())
    ds.PhotometricInterpretation = "YBR_FULL"
    ds.PixelData = encapsulate([out.getvalue()])
    ds["PixelData"].is_undefined_length = True
    seen = quantised(shown(ds, transfer_syntax_uid=JPEGBaseline8Bit).pixels, 8).astype(int)
    assert np.abs(seen[:, [3, 12, 20]] - rgb().astype(int)[:, [3, 12, 20]]).max() < 12


@pytest.mark.parametrize("bits", [16, 32])
def test_wide_colour_samples_are_scaled_not_wrapped(shown, bits):
    top = (1 << bits) - 1
    pixels = (rgb() // 255).astype(f"u{bits // 8}") * top
    ds = colour_image(pixels)
    ds.BitsAllocated = ds.BitsStored = bits
    ds.HighBit = bits - 1
    assert np.array_equal(quantised(shown(ds).pixels, 8), rgb())


def test_a_sound_jp2_wrapper_is_looked_through(shown):
    ds = an_image(pixels=RAMP)
    plain = shown(ds).pixels
    ds.compress(JPEG2000Lossless, generate_instance_uid=False)
    frame = next(generate_frames(ds.PixelData, number_of_frames=1))
    boxes = b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0\0\0\x14ftypjp2 \0\0\0\0jp2 "
    header = b"\0\0\0\x16ihdr" + struct.pack(">IIHBBBB", 64, 64, 1, 15, 7, 0, 0)
    header += b"\0\0\0\x0fcolr\x01\0\0" + struct.pack(">I", 17)
    boxes += struct.pack(">I", 8 + len(header)) + b"jp2h" + header
    wrapped = boxes + struct.pack(">I", 8 + len(frame)) + b"jp2c" + frame
    assert np.array_equal(shown(encapsulated(an_image(pixels=RAMP), wrapped, JPEG2000Lossless)).pixels, plain)


@pytest.mark.peer
@pytest.mark.skipif(shutil.which("dcmcjpeg") is None, reason="DCMTK is not installed")
def test_jpeg_lossless_from_old_scanners_is_shown(shown, tmp_path):
    plain = shown(an_image(pixels=RAMP)).pixels
    source = save(an_image(pixels=RAMP), tmp_path / "plain.dcm")
    subprocess.run(["dcmcjpeg", "+e1", source, tmp_path / "lossless.dcm"], check=True)
    with StoredImage(tmp_path / "lossless.dcm") as image:
        assert image.transfer_syntax == JPEGLosslessSV1
        assert np.array_equal(picture_of(image).pixels, plain)


@pytest.mark.parametrize("scale", [1, 256])
def test_a_palette_is_looked_up(shown, scale):
    ds = an_image(
        pixels=np.array([[0, 1], [2, 1]], np.uint8), bits=8, PhotometricInterpretation="PALETTE COLOR"
    )
    for index, name in enumerate(("Red", "Green", "Blue")):
        table = np.zeros(3, np.uint16)
        table[index] = 255 * scale
        setattr(ds, f"{name}PaletteColorLookupTableDescriptor", [3, 0, 16])
        setattr(ds, f"{name}PaletteColorLookupTableData", table.tobytes())
    seen = quantised(shown(ds).pixels, 8)
    assert [list(seen[0, 0] > 250), list(seen[0, 1] > 250), list(seen[1, 0] > 250)] == np.eye(
        3, dtype=bool
    ).tolist()
