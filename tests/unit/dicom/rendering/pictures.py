"""Pixels to store, and the objects that carry them."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate

from tests.parcels import an_image

RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def multi_frame(**attributes):
    pixels = np.stack([np.full((8, 8), value, np.uint16) for value in (0, 1000, 2000, 3000, 4000)])
    return an_image(pixels=pixels, NumberOfFrames=5, WindowCenter=2048, WindowWidth=4096, **attributes)


def encapsulated(ds, frame, syntax):
    ds.PixelData = encapsulate([frame])
    ds["PixelData"].is_undefined_length = True
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    return ds
