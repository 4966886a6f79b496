"""The reader of films: it finds what stands there and not what merely looks alike."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from broker.demo.film_reader import reads
from broker.dicom.objects.annotation import BUILT_IN_FONT


def a_picture(*lines, size=37, width=3000, height=1200):
    image = Image.new("L", (width, height))
    draw = ImageDraw.Draw(image)
    font = ImageFont.truetype(str(BUILT_IN_FONT), size)
    for number, line in enumerate(lines):
        draw.text((18.4, number * size * 1.4), line, fill=255, font=font)
    noise = np.random.default_rng(1).integers(0, 255, (height // 2, width), dtype=np.uint8)
    page = np.asarray(image).copy()
    page[height // 2 :] = noise
    return page


@pytest.mark.parametrize("size", [24, 29, 37, 60])
def test_a_line_is_read_in_any_size(size):
    page = a_picture("Brennan-Walsh, Maeve   ID DEMO-1005   born 2001-11-30", size=size)
    assert reads(page, "Brennan-Walsh, Maeve")
    assert reads(page, "DEMO-1005")


@pytest.mark.parametrize(
    "other", ["Brennan-Welsh, Maeve", "Brennan, Maeve", "Okafor-Smith, Ada Ma", "DEMO-1006", "DEMO-2005"]
)
def test_what_only_looks_alike_is_not_read(other):
    assert not reads(a_picture("Brennan-Walsh, Maeve   ID DEMO-1005   born 2001-11-30"), other)


def test_an_empty_film_says_nothing():
    assert not reads(a_picture(), "Brennan")
    assert not reads(np.zeros((10, 10), dtype=np.uint8), "Brennan")
