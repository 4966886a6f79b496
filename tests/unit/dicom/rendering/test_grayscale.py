"""What a person sees is what the object says: the grayscale pipeline."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut, apply_windowing
from pydicom.sequence import Sequence

from broker.dicom.objects.pixels import StoredImage
from broker.dicom.objects.rendering import WHITE, picture_of
from tests.parcels import an_image, save
from tests.unit.dicom.rendering.pictures import RAMP


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
