"""Shows an object as a person would see it."""

from __future__ import annotations

import pytest

from broker.dicom.objects.pixels import StoredImage
from broker.dicom.objects.rendering import picture_of
from tests.parcels import save


@pytest.fixture
def shown(tmp_path):
    def _shown(ds, *, frame=None, limits=None, **kwargs):
        with StoredImage(save(ds, tmp_path / "image.dcm", **kwargs), limits) as image:
            return picture_of(image, frame=frame)

    return _shown
