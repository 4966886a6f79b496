"""Looks at a film: which words stand on it, and whether a picture is on it undistorted."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFont

from broker.dicom.objects.annotation import BUILT_IN_FONT

LIKENESS = 0.86
"""Correlation from which every single character counts as itself; two that look alike stay below. For letters from 24 dots on."""

RESEMBLANCE = 0.95
"""Correlation from which a film shows a picture; the same picture a twentieth too wide stays below."""

_INK = 96
_LINE_PX = (6, 120)
_MARGIN_PX = 4
_LOOK_PX = 300
"""To this size a film box is reduced before it is looked at."""
_SMALLEST_SHARE = 0.6
"""What the words beside a picture leave of its box, at least."""
_TOP_SHARE = 0.4
"""How far down a picture the lines about the patient may reach."""

Gray = npt.NDArray[np.uint8]
Reals = npt.NDArray[np.float64]


def reads(picture: Gray, text: str) -> bool:
    """Tell whether `text` stands, white on black, in the upper part of a picture."""
    return any(_likeness(strip.tobytes(), strip.shape[1], text) >= LIKENESS for strip in _lines(picture))


def _lines(picture: Gray) -> Iterator[Gray]:
    """Yield strips that may be a line of text: rows with ink between rows without."""
    top = picture[: int(picture.shape[0] * _TOP_SHARE)]
    inked = np.concatenate(([False], (top > _INK).any(axis=1), [False]))
    edges = np.flatnonzero(inked[1:] != inked[:-1])
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        if _LINE_PX[0] <= last - first <= _LINE_PX[1]:
            yield top[max(first - _MARGIN_PX, 0) : last + _MARGIN_PX]


@lru_cache(maxsize=256)
def _likeness(pixels: bytes, width: int, text: str) -> float:
    """Answer how well the worst character of a text fits, where and in what size the whole fits best."""
    strip = np.frombuffer(pixels, np.uint8).reshape(-1, width).astype(np.float64)
    height = strip.shape[0] - 2 * _MARGIN_PX
    best, fit = 0.0, 0.0
    for size in range(max(int(height * 0.8), 6), int(height * 1.45) + 1):
        font = ImageFont.truetype(str(BUILT_IN_FONT), size)
        template = _drawn(text, font)
        if template.shape[0] > strip.shape[0] or template.shape[1] > strip.shape[1]:
            continue
        places = _correlation(strip, template)
        row, column = (int(place) for place in np.unravel_index(int(places.argmax()), places.shape))
        if places[row, column] > fit:
            fit = float(places[row, column])
            best = _worst_character(strip[row : row + template.shape[0], column:], template, text, font)
    return best


def _drawn(text: str, font: ImageFont.FreeTypeFont) -> Reals:
    mask = font.getmask(text)
    return np.asarray(mask, dtype=np.float64).reshape(mask.size[1], mask.size[0])


def _worst_character(place: Reals, template: Reals, text: str, font: ImageFont.FreeTypeFont) -> float:
    """Compare character by character: one other digit hardly shows in the likeness of a whole line."""
    worst = 1.0
    left = font.getbbox(text)[0]
    for number, character in enumerate(text):
        first = int(font.getlength(text[:number]) - left)
        last = int(font.getlength(text[: number + 1]) - left) + 1
        part = template[:, max(first, 0) : last]
        if character.isspace() or not part.any():
            continue
        # Drawn at a fraction of a dot, a character may have moved by one.
        around = place[:, max(first - 1, 0) : last + 1]
        if around.shape[1] < part.shape[1]:
            return 0.0
        worst = min(worst, float(_correlation(around, part).max()))
    return worst


def shows(picture: Gray, original: npt.NDArray[np.generic]) -> bool:
    """Tell whether a film box holds the original, in whatever size, not distorted, cut or turned."""
    seen = _reduced(picture, _LOOK_PX / max(picture.shape))
    reals = original.astype(np.float64)
    spread = max(float(np.ptp(reals)), 1.0)
    shown = ((reals - reals.min()) * (255 / spread)).astype(np.uint8)
    fit = min(seen.shape[0] / shown.shape[0], seen.shape[1] / shown.shape[1])
    shares = np.arange(_SMALLEST_SHARE, 1.0, 0.01)
    return any(
        float(_correlation(seen, _reduced(shown, fit * share)).max()) >= RESEMBLANCE for share in shares
    )


def _reduced(picture: Gray, scale: float) -> Reals:
    size = (max(int(picture.shape[1] * scale), 1), max(int(picture.shape[0] * scale), 1))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX), dtype=np.float64)


def _correlation(strip: Reals, template: Reals) -> Reals:
    """Answer the normalised cross-correlation of a template with every place of a strip."""
    rows, columns = template.shape
    centred = template - template.mean()
    shape = strip.shape
    spectrum = np.fft.rfft2(strip) * np.conj(np.fft.rfft2(centred, shape))
    products = np.fft.irfft2(spectrum, shape)[: shape[0] - rows + 1, : shape[1] - columns + 1]
    sums, squares = _window_sums(strip, rows, columns), _window_sums(strip**2, rows, columns)
    variance = np.maximum(squares - sums**2 / (rows * columns), 1e-6)
    return np.asarray(products / np.sqrt(variance * (centred**2).sum()))


def _window_sums(values: Reals, rows: int, columns: int) -> Reals:
    """Answer the sum of every window of so many rows and columns."""
    total = np.pad(values.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    return np.asarray(
        total[rows:, columns:] - total[:-rows, columns:] - total[rows:, :-columns] + total[:-rows, :-columns]
    )
