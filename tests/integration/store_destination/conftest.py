"""Archives that answer as told, objects to send, and the destination between them."""

from __future__ import annotations

import pytest

from broker.dicom.destinations.store import StoreDestination, StoreOptions
from tests.integration.store_destination.archive import Scp
from tests.parcels import a_context, an_image, an_item


@pytest.fixture
def scp():
    running = []

    def start(*args, **kwargs):
        running.append(Scp(*args, **kwargs))
        return running[-1]

    yield start
    for one in running:
        one.close()


@pytest.fixture
def destination_to(tmp_path):
    made = []

    def make(port, **options):
        values = {"host": "127.0.0.1", "port": port, "called_ae_title": "PACS", **options}
        made.append(StoreDestination(StoreOptions.model_validate(values), a_context(tmp_path)))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def items(tmp_path):
    def make(count, first=1, **attributes):
        return [
            an_item(an_image(**attributes), tmp_path / "store", number)
            for number in range(first, first + count)
        ]

    return make
