"""Draw what an object lays over its pixels: overlay planes and display shutters."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

PValues = npt.NDArray[np.uint16]
Mask = npt.NDArray[np.bool_]

WHITE = 65535
OVERLAY_GROUPS = range(0x6000, 0x601F, 2)


def draw_overlays(pixels: PValues, header: Dataset, frame: int) -> None:
    """Draw graphic overlay planes in white, in place (PS3.3 C.9.2).

    Planes kept inside the unused bits of the pixels are retired and not drawn.
    """
    for group in OVERLAY_GROUPS:
        data, rows = header.get((group, 0x3000)), header.get((group, 0x0010))
        columns, kind = header.get((group, 0x0011)), header.get((group, 0x0040))
        if data is None or not data.value or rows is None or columns is None:
            continue
        if kind is not None and str(kind.value).strip() == "R":  # a region of interest is not a drawing
            continue
        plane = _overlay_plane(header, group, frame)
        if plane is None:
            continue
        origin = header.get((group, 0x0050))
        top, left = (int(value) - 1 for value in origin.value) if origin is not None else (0, 0)
        _stamp(pixels, plane, top=top, left=left)


def _overlay_plane(header: Dataset, group: int, frame: int) -> Mask | None:
    """Answer one plane of an overlay, None when it has none for this frame (PS3.3 C.9.2.1)."""
    rows, columns = int(header[group, 0x0010].value), int(header[group, 0x0011].value)
    frames: DataElement | None = header.get((group, 0x0015))
    first: DataElement | None = header.get((group, 0x0051))
    count = int(frames.value) if frames is not None else 1
    index = frame - (int(first.value) - 1 if first is not None else 0)
    if count == 1 and frames is None:
        index = 0
    if not 0 <= index < count:
        return None
    bits = rows * columns
    data = np.frombuffer(header[group, 0x3000].value, np.uint8)
    begin, end = index * bits, (index + 1) * bits
    if end > len(data) * 8:
        return None
    unpacked = np.unpackbits(data[begin // 8 : (end + 7) // 8], bitorder="little")
    return unpacked[begin % 8 : begin % 8 + bits].reshape(rows, columns).astype(bool)


def _stamp(pixels: PValues, plane: Mask, *, top: int, left: int) -> None:
    """Whiten the pixels under a plane, as far as it lies on the picture."""
    rows, columns = pixels.shape[:2]
    first_row, first_column = max(top, 0), max(left, 0)
    last_row, last_column = min(top + plane.shape[0], rows), min(left + plane.shape[1], columns)
    if first_row >= last_row or first_column >= last_column:
        return
    part = plane[first_row - top : last_row - top, first_column - left : last_column - left]
    pixels[first_row:last_row, first_column:last_column][part] = WHITE


def draw_shutter(pixels: PValues, header: Dataset) -> None:
    """Cover what lies outside the display shutter, in place (PS3.3 C.7.6.11)."""
    shapes = header.get("ShutterShape")
    if not shapes:
        return
    names = [shapes] if isinstance(shapes, str) else list(shapes)
    shape = (pixels.shape[0], pixels.shape[1])
    visible = np.ones(shape, dtype=bool)
    for name in names:
        # Several shapes: only what all of them leave open is seen.
        match str(name).strip().upper():
            case "RECTANGULAR":
                visible &= _rectangle(shape, header)
            case "CIRCULAR":
                visible &= _circle(shape, header)
            case "POLYGONAL":
                visible &= _polygon(shape, header)
    value = header.get("ShutterPresentationValue")
    pixels[~visible] = int(value) & WHITE if value is not None else 0


def _rectangle(shape: tuple[int, int], header: Dataset) -> Mask:
    # Edges are 1-based and themselves covered.
    mask = np.zeros(shape, dtype=bool)
    top, bottom = int(header.ShutterUpperHorizontalEdge), int(header.ShutterLowerHorizontalEdge)
    left, right = int(header.ShutterLeftVerticalEdge), int(header.ShutterRightVerticalEdge)
    mask[max(top, 0) : max(bottom - 1, 0), max(left, 0) : max(right - 1, 0)] = True
    return mask


def _circle(shape: tuple[int, int], header: Dataset) -> Mask:
    row, column = (int(value) - 1 for value in header.CenterOfCircularShutter)
    radius = int(header.RadiusOfCircularShutter)
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return np.asarray((rows - row) ** 2 + (columns - column) ** 2 <= radius**2)


def _polygon(shape: tuple[int, int], header: Dataset) -> Mask:
    vertices = [int(value) - 1 for value in header.VerticesOfThePolygonalShutter]
    points = [(column, row) for row, column in list(pairwise(vertices))[::2]]
    image = Image.new("1", (shape[1], shape[0]))
    ImageDraw.Draw(image).polygon(points, fill=1)
    return np.asarray(image, dtype=bool)
