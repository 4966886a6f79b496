"""What is drawn over a picture, what covers it, and the shape it has."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.dicom.objects.rendering import WHITE, Picture, fitted, quantised, render, render_png
from tests.parcels import an_image, save

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
