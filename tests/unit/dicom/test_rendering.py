"""What a person sees is what the object says: grayscale pipeline, geometry, and objects that lie."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import config as pydicom_config
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.filewriter import dcmwrite
from pydicom.pixels.processing import apply_modality_lut, apply_windowing
from pydicom.sequence import Sequence
from pydicom.uid import (
    MPEG2MPML,
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
from broker.dicom.objects.pixels import PixelLimits, StoredImage
from broker.dicom.objects.rendering import (
    WHITE,
    Picture,
    fitted,
    luminance,
    picture_of,
    quantised,
    render,
    render_png,
)
from tests.parcels import an_image, save

RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


@pytest.fixture
def shown(tmp_path):
    def _shown(ds, *, frame=None, limits=None, **kwargs):
        with StoredImage(save(ds, tmp_path / "image.dcm", **kwargs), limits) as image:
            return picture_of(image, frame=frame)

    return _shown


# ---- grayscale -----------------------------------------------------------------------------------------


def test_without_a_window_the_frame_spans_black_to_white(shown):
    pixels = shown(an_image(pixels=RAMP)).pixels
    assert (pixels.min(), pixels.max()) == (0, WHITE)
    assert np.all(np.diff(pixels.ravel().astype(int)) >= 0)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID", None])
@pytest.mark.parametrize(("centre", "width"), [(1040, 400), (40, 1), (0, 4096), (-500.5, 1500.25)])
@pytest.mark.filterwarnings("ignore:overflow")
def test_windows_agree_with_pydicom(shown, function, centre, width):
    ds = an_image(
        pixels=RAMP,
        WindowCenter=centre,
        WindowWidth=width,
        VOILUTFunction=function,
        RescaleSlope=1,
        RescaleIntercept=-1024,
    )
    ours = shown(ds).pixels.astype(float) / WHITE
    theirs = apply_windowing(apply_modality_lut(RAMP, ds), ds)
    low, high = -1024, 4095 - 1024
    assert np.abs(ours - (theirs - low) / (high - low)).max() < 1e-3


@pytest.mark.parametrize(
    ("photometric", "shape", "is_inverted"),
    [
        ("MONOCHROME2", None, False),
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME1", None, True),
        ("MONOCHROME1", "INVERSE", True),
        ("MONOCHROME1", "IDENTITY", True),
        ("MONOCHROME2", "INVERSE", True),
    ],
)
def test_monochrome1_is_inverted_exactly_once(shown, photometric, shape, is_inverted):
    ds = an_image(
        pixels=RAMP,
        PhotometricInterpretation=photometric,
        PresentationLUTShape=shape,
        WindowCenter=2048,
        WindowWidth=4096,
    )
    pixels = shown(ds).pixels
    assert pixels[0, 0] == (WHITE if is_inverted else 0)
    assert pixels[-1, -1] == (0 if is_inverted else WHITE)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_does_not_stretch_the_window(shown, photometric):
    pixels = np.full((8, 8), -2000, dtype=np.int16)
    pixels[2:6, 2:6] = np.arange(100, 116).reshape(4, 4)
    ds = an_image(pixels=pixels, bits=16, PhotometricInterpretation=photometric)
    ds.PixelPaddingValue = -2000
    seen = shown(ds).pixels
    assert np.all(seen[:2] == 0)
    assert {int(seen[2, 2]), int(seen[5, 5])} == {0, WHITE}


def test_a_padding_range_is_padding(shown):
    pixels = np.array([[0, 5, 10, 100], [100, 200, 300, 300]], dtype=np.uint16)
    ds = an_image(pixels=pixels)
    ds.PixelPaddingValue, ds.PixelPaddingRangeLimit = 0, 10
    seen = shown(ds).pixels
    assert list(seen[0]) == [0, 0, 0, 0]
    assert seen[1, 0] == 0
    assert seen[1, 3] == WHITE


def test_a_voi_lut_comes_before_a_window(shown):
    lut = Dataset()
    lut.LUTDescriptor = [4096, 0, 16]
    lut.LUTData = np.where(np.arange(4096) < 1000, 0, 65535).astype(np.uint16).tobytes()
    lut["LUTData"].VR = "OW"
    ds = an_image(pixels=RAMP, WindowCenter=3000, WindowWidth=10)
    ds.VOILUTSequence = Sequence([lut])
    seen = shown(ds).pixels.ravel()
    assert set(seen[:1000]) == {0}
    assert set(seen[1000:]) == {WHITE}


def test_a_modality_lut_is_applied_before_the_window(shown):
    lut = Dataset()
    lut.LUTDescriptor = [4096, 0, 16]
    lut.ModalityLUTType = "US"
    lut.LUTData = np.arange(4096)[::-1].astype(np.uint16).tobytes()
    lut["LUTData"].VR = "OW"
    ds = an_image(pixels=RAMP, WindowCenter=2048, WindowWidth=4096)
    ds.ModalityLUTSequence = Sequence([lut])
    seen = shown(ds).pixels
    assert seen[0, 0] == WHITE
    assert seen[-1, -1] == 0


def test_what_is_hidden_in_unused_bits_is_not_shown(shown):
    plain = RAMP & 0x0FFF
    hidden = plain | np.uint16(0xA000)
    window = {"WindowCenter": 2048, "WindowWidth": 4096, "bits": 12}
    assert np.array_equal(
        shown(an_image(pixels=hidden, **window)).pixels, shown(an_image(pixels=plain, **window)).pixels
    )


def test_signed_values_below_zero_are_dark(shown):
    pixels = np.array([[-1024, 0], [500, 3071]], dtype=np.int16)
    seen = shown(an_image(pixels=pixels, bits=16, WindowCenter=0, WindowWidth=2048)).pixels
    assert seen[0, 0] < seen[0, 1] < seen[1, 0] < seen[1, 1] == WHITE


@pytest.mark.parametrize(
    "bad", [{"WindowWidth": 0}, {"WindowWidth": -5}, {"WindowWidth": None}, {"WindowCenter": None}]
)
def test_an_impossible_window_is_ignored(shown, bad):
    ds = an_image(pixels=RAMP, **{"WindowCenter": 100, "WindowWidth": 50, **bad})
    seen = shown(ds).pixels
    assert (seen.min(), seen.max()) == (0, WHITE)


def test_a_frame_of_one_value_is_not_a_division_by_zero(shown):
    assert set(np.unique(shown(an_image(pixels=np.full((4, 4), 7, np.uint16))).pixels)) == {32768}


def test_an_image_for_presentation_without_window_keeps_its_range(shown):
    ds = an_image(pixels=np.array([[1000, 2000]], dtype=np.uint16), PresentationLUTShape="IDENTITY")
    assert list(shown(ds).pixels[0]) == [round(1000 / 4095 * WHITE), round(2000 / 4095 * WHITE)]


def test_float_pixels_are_shown(shown):
    ds = an_image()
    del ds.PixelData
    ds.Rows = ds.Columns = 4
    ds.BitsAllocated = 32
    del ds.BitsStored, ds.HighBit, ds.PixelRepresentation
    ds.FloatPixelData = np.linspace(-1, 1, 16, dtype=np.float32).tobytes()
    seen = shown(ds).pixels
    assert (seen[0, 0], seen[-1, -1]) == (0, WHITE)


def test_one_bit_pixels_are_shown(shown):
    ds = an_image(pixels=np.zeros((8, 8), np.uint8), bits=1, BitsAllocated=1, BitsStored=1, HighBit=0)
    ds.PixelData = bytes([0b10101010] * 8)
    seen = shown(ds).pixels
    assert list(seen[0, :4]) == [0, WHITE, 0, WHITE]


@given(
    st.integers(1, 16),
    st.integers(-2000, 2000),
    st.integers(2, 4000),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_brighter_stored_values_are_never_shown_darker(tmp_path_factory, bits, centre, width, is_signed):
    kind = np.int16 if is_signed else np.uint16
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if is_signed else (0, (1 << bits) - 1)
    pixels = np.linspace(low, high, 64).astype(kind).reshape(8, 8)
    ds = an_image(pixels=pixels, bits=bits, WindowCenter=centre, WindowWidth=width)
    path = save(ds, tmp_path_factory.mktemp("monotone") / "image.dcm")
    with StoredImage(path) as image:
        seen = picture_of(image).pixels.ravel().astype(int)
    assert np.all(np.diff(seen) >= 0)


# ---- frames --------------------------------------------------------------------------------------------


def multi_frame(**attributes):
    pixels = np.stack([np.full((8, 8), value, np.uint16) for value in (0, 1000, 2000, 3000, 4000)])
    return an_image(pixels=pixels, NumberOfFrames=5, WindowCenter=2048, WindowWidth=4096, **attributes)


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


# ---- overlays and shutters -----------------------------------------------------------------------------


def with_overlay(ds, plane, *, origin=(1, 1), kind="G"):
    ds.add_new(0x60000010, "US", plane.shape[0])
    ds.add_new(0x60000011, "US", plane.shape[1])
    ds.add_new(0x60000040, "CS", kind)
    ds.add_new(0x60000050, "SS", list(origin))
    ds.add_new(0x60000100, "US", 1)
    ds.add_new(0x60000102, "US", 0)
    data = np.packbits(plane.ravel(), bitorder="little").tobytes()
    ds.add_new(0x60003000, "OW", data + b"\0" * (len(data) % 2))
    return ds


def test_an_overlay_is_drawn_where_its_origin_says(shown):
    ds = with_overlay(
        an_image(pixels=np.zeros((8, 8), np.uint16), WindowCenter=100, WindowWidth=100),
        np.ones((2, 3), bool),
        origin=(3, 7),
    )
    seen = shown(ds).pixels
    assert np.all(seen[2:4, 6:8] == WHITE)
    assert int((seen == WHITE).sum()) == 4


def test_a_region_of_interest_and_a_short_overlay_are_not_drawn(shown):
    blank = {"pixels": np.zeros((8, 8), np.uint16), "WindowCenter": 100, "WindowWidth": 100}
    assert shown(with_overlay(an_image(**blank), np.ones((2, 3), bool), kind="R")).pixels.max() == 0
    short = with_overlay(an_image(**blank), np.ones((2, 3), bool))
    short.add_new(0x60000010, "US", 60000)
    assert shown(short).pixels.max() == 0


@pytest.mark.parametrize(
    ("shutter", "open_at", "covered_at"),
    [
        (
            {
                "ShutterShape": "RECTANGULAR",
                "ShutterUpperHorizontalEdge": 2,
                "ShutterLowerHorizontalEdge": 6,
                "ShutterLeftVerticalEdge": 1,
                "ShutterRightVerticalEdge": 8,
            },
            [(2, 1), (4, 6)],
            [(1, 4), (5, 4), (4, 0), (4, 7)],
        ),
        (
            {"ShutterShape": "CIRCULAR", "CenterOfCircularShutter": [5, 5], "RadiusOfCircularShutter": 2},
            [(4, 4), (4, 6)],
            [(0, 0), (7, 7), (4, 7)],
        ),
        (
            {"ShutterShape": "POLYGONAL", "VerticesOfThePolygonalShutter": [1, 1, 1, 8, 8, 1]},
            [(1, 1), (0, 5)],
            [(7, 7), (6, 6)],
        ),
    ],
)
def test_a_shutter_covers_what_is_outside(shown, shutter, open_at, covered_at):
    ds = an_image(pixels=np.full((8, 8), 4095, np.uint16), WindowCenter=100, WindowWidth=100, **shutter)
    seen = shown(ds).pixels
    assert all(seen[place] == WHITE for place in open_at)
    assert all(seen[place] == 0 for place in covered_at)


# ---- geometry ------------------------------------------------------------------------------------------


def plain_picture(rows, columns, aspect=1.0):
    return Picture(pixels=np.zeros((rows, columns), np.uint16), pixel_aspect=aspect, frame=0, frames=1)


@given(
    st.integers(1, 60),
    st.integers(1, 60),
    st.floats(0.2, 5),
    st.integers(1, 100),
    st.integers(1, 100),
    st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_a_scaled_picture_never_leaves_its_box(rows, columns, aspect, width, height, enlarge):
    scaled = fitted(plain_picture(rows, columns, aspect), width=width, height=height, enlarge=enlarge)
    assert 1 <= scaled.shape[0] <= height
    assert 1 <= scaled.shape[1] <= width


@pytest.mark.parametrize(
    ("picture", "box", "expected"),
    [
        (plain_picture(512, 512), (1000, 800), (800, 800)),
        (plain_picture(512, 512), (256, 300), (256, 256)),
        (plain_picture(100, 200), (400, 400), (200, 400)),
        (plain_picture(100, 100, 2.0), (400, 400), (400, 200)),
        (plain_picture(100, 100, 0.5), (400, 400), (200, 400)),
    ],
)
def test_the_true_shape_is_kept(picture, box, expected):
    assert fitted(picture, width=box[0], height=box[1]).shape == expected


def test_scaling_does_not_overshoot():
    pixels = np.where(np.indices((64, 64))[1] < 32, 0, WHITE).astype(np.uint16)
    for side in (20, 200):
        scaled = fitted(Picture(pixels, 1.0, 0, 1), width=side, height=side)
        assert scaled[0, 0] == 0
        assert scaled[0, -1] == WHITE
        # Lanczos rings beside an edge; wrapped around it would be a white line in the black.
        assert scaled[:, : side // 4].max() < WHITE // 4


def test_pixel_spacing_gives_the_shape(shown):
    assert shown(an_image(PixelSpacing=[2, 1])).pixel_aspect == 2
    assert shown(an_image(PixelAspectRatio=[1, 2], PixelSpacing=[2, 1])).pixel_aspect == 0.5
    assert shown(an_image(PixelSpacing=[0, 1])).pixel_aspect == 1


@pytest.mark.parametrize(("bits", "top"), [(8, 255), (12, 4095)])
def test_quantising_keeps_black_white_and_order(bits, top):
    values = quantised(np.arange(65536, dtype=np.uint16), bits)
    assert (int(values[0]), int(values[-1])) == (0, top)
    assert np.all(np.diff(values.astype(int)) >= 0)
    assert len(np.unique(values)) == top + 1


def test_a_preview_is_small_and_holds_no_header(tmp_path):
    path = save(an_image(rows=600, columns=300), tmp_path / "image.dcm")
    assert render(path, max_side_pixels=200).shape == (200, 100)
    assert render(path, max_side_pixels=2000).shape == (600, 300)
    png = render_png(path, max_side_pixels=64)
    assert png.startswith(b"\x89PNG")
    assert b"ZZTEST" not in png


# ---- objects that lie ----------------------------------------------------------------------------------


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


def encapsulated(ds, frame, syntax):
    ds.PixelData = encapsulate([frame])
    ds["PixelData"].is_undefined_length = True
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    return ds


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
@pytest.mark.timeout(10)
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


def nested(depth):
    ds = Dataset()
    for _ in range(depth):
        outer = Dataset()
        outer.add_new(0x00081115, "SQ", Sequence([ds]))
        ds = outer
    return ds


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
