"""A site that receives images, new for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.storage_service.receiving_site import Site


@pytest.fixture
def site(tmp_path: Path, sqlite_uow_factory):
    site = Site(tmp_path, sqlite_uow_factory)
    yield site
    site.server.stop(grace_s=1)
