"""Turn stored pixels into what a person should see: P-values for film, bytes for a preview.

The order of the steps is the standard's grayscale transformation (PS3.3 C.11, PS3.4 N.2): stored values,
modality LUT, VOI LUT or window, presentation (inversion exactly once), then what is laid over the picture.
P-values are 16 bit, 0 is black; quantising to a printer's 8 or 12 bits is the last step and not taken here.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi

from broker.dicom.objects.markings import draw_overlays, draw_shutter
from broker.dicom.objects.pixels import FrameDecoder, PixelLimits, Pixels, StoredImage, typed_errors

WHITE = 65535
PValues = npt.NDArray[np.uint16]
Reals = npt.NDArray[np.float64]

# Functional groups of enhanced objects that change how a frame looks (PS3.3 C.7.6.16).
_FRAME_GROUPS = (
    "PixelValueTransformationSequence",
    "FrameVOILUTSequence",
    "PixelMeasuresSequence",
    "FrameAnatomySequence",
)
# Beyond these a spacing is a typing error, not a shape.
_MIN_ASPECT, _MAX_ASPECT = 0.05, 20.0


@dataclass(frozen=True, slots=True)
class Picture:
    """One frame as it should be seen."""

    pixels: PValues
    """Rows x columns, or rows x columns x 3; 0 is black, 65535 white."""
    pixel_aspect: float
    """Height of a pixel divided by its width."""
    frame: int
    frames: int

    @property
    def is_colour(self) -> bool:
        """Tell whether there are three samples per pixel."""
        return self.pixels.ndim == 3


def picture_of(image: StoredImage, *, frame: int | None = None) -> Picture:
    """Render one frame of an opened object; without a number, the middle one."""
    frames = image.frames
    index = frames // 2 if frame is None else frame
    raw = image.frame(index)
    with typed_errors("the picture cannot be rendered"):
        attributes = _attributes_of_frame(image.header, index)
        is_colour = raw.ndim == 3 or attributes.get("PhotometricInterpretation") == "PALETTE COLOR"
        pixels = _colour(raw, attributes) if is_colour else _grayscale(raw, attributes)
        draw_overlays(pixels, image.header, index)
        draw_shutter(pixels, image.header)
        return Picture(pixels=pixels, pixel_aspect=_pixel_aspect(attributes), frame=index, frames=frames)


def fitted(picture: Picture, *, width: int, height: int, enlarge: bool = True) -> PValues:
    """Scale to the largest size with the true shape that fits into width x height."""
    rows, columns = picture.pixels.shape[:2]
    shape_height, shape_width = rows * picture.pixel_aspect, float(columns)
    scale = min(width / shape_width, height / shape_height)
    if not enlarge:
        scale = min(scale, 1.0 if picture.pixel_aspect <= 1 else 1 / picture.pixel_aspect)
    target = (
        max(min(round(shape_width * scale), width), 1),
        max(min(round(shape_height * scale), height), 1),
    )
    if target == (columns, rows):
        return picture.pixels
    shrinks = target[0] < columns or target[1] < rows
    filter_ = Image.Resampling.LANCZOS if shrinks else Image.Resampling.BILINEAR
    planes = [picture.pixels[..., sample] for sample in range(3)] if picture.is_colour else [picture.pixels]
    # Pillow scales 16-bit integers wrongly, 32-bit floats rightly. Lanczos overshoots, hence the clip.
    scaled = [
        np.clip(
            np.rint(np.asarray(Image.fromarray(plane.astype(np.float32)).resize(target, filter_))), 0, WHITE
        ).astype(np.uint16)
        for plane in planes
    ]
    return np.stack(scaled, axis=-1) if picture.is_colour else scaled[0]


def luminance(pixels: PValues) -> PValues:
    """Answer the gray of a colour picture (ITU-R BT.601, as PS3.3 C.7.6.3.1.2 uses it for Y)."""
    if pixels.ndim == 2:
        return pixels
    weights = np.array([0.299, 0.587, 0.114], dtype=np.float32)
    gray: Reals = np.rint(pixels.astype(np.float32) @ weights)
    return gray.clip(0, WHITE).astype(np.uint16)


def quantised(pixels: PValues, bits: int) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """Round 16-bit P-values to `bits` bits: bytes up to 8, words above."""
    steps = (1 << bits) - 1
    rounded = (pixels.astype(np.uint32) * steps + WHITE // 2) // WHITE
    return rounded.astype(np.uint8) if bits <= 8 else rounded.astype(np.uint16)


def render(
    path: Path,
    *,
    max_side_pixels: int,
    frame: int | None = None,
    limits: PixelLimits | None = None,
    decode: FrameDecoder | None = None,
) -> npt.NDArray[np.uint8]:
    """Render a preview: 8 bit, gray or RGB, no side longer than `max_side_pixels`, never enlarged."""
    with StoredImage(path, limits, decode=decode) as image:
        picture = picture_of(image, frame=frame)
    with typed_errors("the picture cannot be scaled"):
        scaled = fitted(picture, width=max_side_pixels, height=max_side_pixels, enlarge=False)
        return quantised(scaled, 8).astype(np.uint8, copy=False)


def render_png(
    path: Path,
    *,
    max_side_pixels: int,
    frame: int | None = None,
    limits: PixelLimits | None = None,
    decode: FrameDecoder | None = None,
) -> bytes:
    """Render a preview as PNG; it holds pixels and nothing of the header."""
    out = io.BytesIO()
    pixels = render(path, max_side_pixels=max_side_pixels, frame=frame, limits=limits, decode=decode)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


# ---- grayscale -----------------------------------------------------------------------------------------


def _grayscale(raw: Pixels, attributes: Dataset) -> PValues:
    """Take stored values to P-values."""
    if raw.dtype.kind in "iu" and raw.dtype.itemsize <= 2:
        # Every step works value by value: do it once per value that can occur, not once per pixel.
        low, high = int(raw.min()), int(raw.max())
        domain = np.arange(low, high + 1)
        place = raw.astype(np.int32) - low
        occurs = np.bincount(place.ravel(), minlength=len(domain)) > 0
        table = _p_values(domain, attributes, occurs=occurs)
        return np.asarray(table[place], dtype=np.uint16)
    return _p_values(raw, attributes, occurs=np.ones(raw.shape, dtype=bool))


def _p_values(stored: Pixels, attributes: Dataset, *, occurs: npt.NDArray[np.bool_]) -> PValues:
    """Apply modality LUT, VOI and presentation to stored values; `occurs` says which of them the frame has."""
    padding = _is_padding(stored, attributes)
    values = np.nan_to_num(
        apply_modality_lut(_meaningful_bits(stored, attributes), attributes).astype(np.float64)
    )
    seen = values[occurs & ~padding]
    if not seen.size:
        return np.zeros(stored.shape, dtype=np.uint16)
    presented = _voi(values, attributes, low=float(seen.min()), high=float(seen.max()))
    # MONOCHROME1 and Shape INVERSE say the same thing; a picture that says both is inverted once
    # (PS3.3 C.7.6.3.1.2, C.11.6.1.2).
    shape = str(attributes.get("PresentationLUTShape") or "").strip().upper()
    if attributes.get("PhotometricInterpretation") == "MONOCHROME1" or shape == "INVERSE":
        presented = 1.0 - presented
    p_values = np.rint(np.clip(presented, 0.0, 1.0) * WHITE).astype(np.uint16)
    # Padding is no anatomy: it is background whichever way the gray scale runs (PS3.3 C.7.5.1.1.2).
    p_values[padding] = 0
    return p_values


def _meaningful_bits(stored: Pixels, attributes: Dataset) -> Pixels:
    """Drop what old objects keep in the unused bits of a pixel, overlays for one (PS3.5 8.1.1)."""
    allocated, bits = int(attributes.BitsAllocated), int(attributes.get("BitsStored") or 0)
    if stored.dtype.kind not in "iu" or not 0 < bits < allocated or allocated > 16:
        return stored
    high_bit = int(attributes.get("HighBit", bits - 1))
    values = (stored.astype(np.int64) >> max(high_bit + 1 - bits, 0)) & ((1 << bits) - 1)
    if int(attributes.get("PixelRepresentation") or 0):
        values -= (values >> (bits - 1)) << bits
    return values


def _is_padding(stored: Pixels, attributes: Dataset) -> npt.NDArray[np.bool_]:
    """Find Pixel Padding Value, or the range it spans with its limit (PS3.3 C.7.5.1.1.2)."""
    first = _number(attributes, "PixelPaddingValue")
    if first is None:
        return np.zeros(stored.shape, dtype=bool)
    last = _number(attributes, "PixelPaddingRangeLimit")
    low, high = sorted((first, first if last is None else last))
    return np.asarray((stored >= low) & (stored <= high))


def _voi(values: Reals, attributes: Dataset, *, low: float, high: float) -> Reals:
    """Map values to 0..1 by VOI LUT, else by the first window, else by what the frame holds (PS3.3 C.11.2)."""
    if attributes.get("VOILUTSequence"):
        bits = int(attributes.VOILUTSequence[0].LUTDescriptor[2])
        looked_up = apply_voi(np.rint(values).astype(np.int64), attributes)
        return np.asarray(looked_up / ((1 << bits) - 1), dtype=np.float64)
    centre, width = _number(attributes, "WindowCenter"), _number(attributes, "WindowWidth")
    if centre is not None and width is not None:
        function = str(attributes.get("VOILUTFunction") or "LINEAR").strip().upper()
        if function == "SIGMOID" and width > 0:
            return np.asarray(1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - centre) / width, -700, 700))))
        if function == "LINEAR_EXACT" and width > 0:
            return np.asarray((values - centre) / width + 0.5)
        if width > 1:
            return np.asarray((values - (centre - 0.5)) / (width - 1) + 0.5)
        if width == 1:
            return np.asarray(values > centre - 0.5, dtype=np.float64)
    if attributes.get("PresentationLUTShape") and not _is_rescaled(attributes):
        # Meant for presentation as stored: black and white are the ends of the range, not of this frame.
        low, high = _stored_range(attributes)
    if high <= low:
        return np.full(values.shape, 0.5)
    return np.asarray((values - low) / (high - low))


def _stored_range(attributes: Dataset) -> tuple[float, float]:
    """Answer the smallest and largest value that can be stored."""
    bits = int(attributes.get("BitsStored") or attributes.BitsAllocated)
    if int(attributes.get("PixelRepresentation") or 0):
        return -float(1 << (bits - 1)), float((1 << (bits - 1)) - 1)
    return 0.0, float((1 << bits) - 1)


def _is_rescaled(attributes: Dataset) -> bool:
    """Tell whether the modality LUT changes anything."""
    slope, intercept = _number(attributes, "RescaleSlope"), _number(attributes, "RescaleIntercept")
    return bool(attributes.get("ModalityLUTSequence")) or (slope or 1.0) != 1.0 or bool(intercept)


# ---- colour --------------------------------------------------------------------------------------------


def _colour(raw: Pixels, attributes: Dataset) -> PValues:
    """Bring RGB or palette samples to 16 bits."""
    if raw.ndim == 2:
        raw = apply_color_lut(_meaningful_bits(raw, attributes), attributes)[..., :3]
        # Some palettes declare 16-bit entries and hold 8-bit values (PS3.3 C.7.6.3.1.5 asks for the scale).
        bits = 8 if raw.dtype.itemsize == 1 or int(raw.max()) < 256 else 16
    else:
        bits = int(attributes.get("BitsStored") or attributes.BitsAllocated)
    top = (1 << bits) - 1
    if bits > 16:  # beyond what 32-bit integers can scale
        return np.rint(raw.astype(np.float64) / top * WHITE).clip(0, WHITE).astype(np.uint16)
    values = np.clip(raw.astype(np.uint32), 0, top)
    return np.asarray((values * WHITE + top // 2) // top, dtype=np.uint16)


# ---- attributes ----------------------------------------------------------------------------------------


def _attributes_of_frame(header: Dataset, index: int) -> Dataset:
    """Flatten what the functional groups say about one frame over the header (PS3.3 C.7.6.16.1)."""
    attributes = Dataset()
    attributes.set_original_encoding(*header.original_encoding)  # tells pydicom the byte order of LUT data
    attributes.update({element.tag: element for element in header.group_dataset(0x0028)})
    for keyword in ("PresentationLUTShape", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        if keyword in header:
            attributes[keyword] = header[keyword]
    shared = header.get("SharedFunctionalGroupsSequence") or []
    per_frame = header.get("PerFrameFunctionalGroupsSequence") or []
    for item in (*shared[:1], *per_frame[index : index + 1]):
        for keyword in _FRAME_GROUPS:
            for group in (item.get(keyword) or [])[:1]:
                attributes.update({element.tag: element for element in group})
    for keyword in ("RescaleSlope", "RescaleIntercept"):
        if keyword in attributes and attributes.get(keyword) in (None, ""):
            del attributes[keyword]
    if "RescaleSlope" not in attributes or "RescaleIntercept" not in attributes:
        # Half a rescale is completed by its neutral half.
        attributes.RescaleSlope = attributes.get("RescaleSlope", 1)
        attributes.RescaleIntercept = attributes.get("RescaleIntercept", 0)
    return attributes


def _number(attributes: Dataset, keyword: str) -> float | None:
    """Answer the first value as a finite number, None when there is none."""
    value: Any = attributes.get(keyword)
    if isinstance(value, (MultiValue, list, tuple)):
        value = value[0] if value else None
    if value is None or value == "":
        return None
    number = float(value)
    return number if np.isfinite(number) else None


def _pixel_aspect(attributes: Dataset) -> float:
    """Answer pixel height / width from Pixel Aspect Ratio, else from a spacing (PS3.3 C.7.6.3.1.7)."""
    for keyword in ("PixelAspectRatio", "PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        value = attributes.get(keyword)
        if isinstance(value, MultiValue) and len(value) == 2:
            vertical, horizontal = float(value[0]), float(value[1])
            if vertical > 0 and horizontal > 0 and _MIN_ASPECT <= vertical / horizontal <= _MAX_ASPECT:
                return vertical / horizontal
    return 1.0
