"""Native Pixel Data that are shorter than they say are noticed, and nothing else is taken for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from broker.dicom.objects.elements import Syntax
from broker.dicom.objects.pixel_data_end import HEAD_BYTES, PixelDataEnd
from tests.data_sets import pydicom_writes

PIXELS = bytes(range(256)) * 100
TAG = b"\xe0\x7f\x10\x00OW\x00\x00\xff\xff\xff\x00"


def an_object(syntax=Syntax.EXPLICIT_LITTLE, *, vr="OW", private=b"", icon=None, padding=False):
    ds = Dataset()
    ds.SOPInstanceUID = "1.2.3"
    ds.PatientName = "Cut^Off"
    if private:
        ds.add_new(0x00091001, "OB", private)
    ds.Rows, ds.Columns, ds.BitsAllocated = 100, 128, 16
    if icon is not None:
        item = Dataset()
        item.add_new(0x7FE00010, "OW", icon)
        ds.IconImageSequence = Sequence([item])
    ds.add_new(0x7FE00010, vr, PIXELS)
    if padding:
        ds.add_new(0xFFFCFFFC, "OB", bytes(20))
    return pydicom_writes(ds, syntax)


def is_missing(data, syntax=Syntax.EXPLICIT_LITTLE.value, piece=4000):
    end = PixelDataEnd(syntax)
    for at in range(0, len(data), piece):
        end.take(memoryview(data)[at : at + piece])
    return end.is_missing


@pytest.mark.parametrize("syntax", list(Syntax))
@pytest.mark.parametrize("vr", ["OW", "OB"])
def test_an_end_that_is_missing_is_noticed_in_every_native_syntax(syntax, vr):
    whole = an_object(syntax, vr=vr)
    assert not is_missing(whole, syntax.value)
    for missing in (2, 3, 1000, len(PIXELS) - 1, len(PIXELS)):
        assert is_missing(whole[:-missing], syntax.value), missing


def test_a_byte_of_padding_that_was_counted_and_not_written_is_no_pixel():
    assert not is_missing(an_object()[:-1])


@pytest.mark.parametrize(
    "whole",
    [
        pytest.param(an_object(padding=True), id="something follows the pixels"),
        pytest.param(an_object(private=TAG + bytes(100)), id="the tag stands in a private value"),
        pytest.param(an_object(icon=bytes(64)), id="an icon has pixels of its own"),
        pytest.param(an_object(private=TAG[:8] + b"\xff\xff\xff\xff"), id="a fragment header in a value"),
        pytest.param(an_object(private=bytes(HEAD_BYTES)), id="the pixels begin too far on to look"),
        pytest.param(an_object()[: -len(PIXELS) - 12], id="no pixels at all"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_what_is_whole_is_let_through(whole):
    assert not is_missing(whole)


def test_a_decoy_before_them_does_not_hide_pixels_that_are_cut():
    assert is_missing(an_object(private=TAG + bytes(100), icon=bytes(64))[:-100])


def test_compressed_pixels_say_no_length_and_are_not_judged():
    whole = an_object()
    at = whole.index(b"\xe0\x7f\x10\x00OW")
    compressed = whole[: at + 8] + b"\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\x00\x00\x00\x00" + PIXELS
    assert not is_missing(compressed, "1.2.840.10008.1.2.4.70")
    assert not is_missing(whole[:-100], "1.2.840.10008.1.2.1.99")  # deflated: not the bytes they seem


@given(st.binary(max_size=300), st.integers(0, 300))
def test_no_bytes_are_too_strange(data, at):
    is_missing(data[:at] + TAG + data[at:], piece=7)
