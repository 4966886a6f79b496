"""Printers that answer as told, pictures to print, and the destination between them."""

from __future__ import annotations

import pytest

from broker.dicom.destinations.print import PrintDestination, PrintOptions
from tests.integration.print_destination.film_printer import Printer
from tests.parcels import a_context, an_image, an_item


@pytest.fixture
def printer():
    running = []

    def start(**kwargs):
        running.append(Printer(**kwargs))
        return running[-1]

    yield start
    for one in running:
        one.close()


@pytest.fixture
def destination_to(tmp_path):
    def make(port, **options):
        values = {
            "host": "127.0.0.1",
            "port": port,
            "called_ae_title": "IHEFULL",
            "dots_per_inch": 100,
            **options,
        }
        return PrintDestination(PrintOptions.model_validate(values), a_context(tmp_path, "film"))

    return make


@pytest.fixture
def items(tmp_path):
    def make(count, first=1, **attributes):
        return [
            an_item(
                an_image(**{"rows": 64, "columns": 64, "InstanceNumber": number, **attributes}),
                tmp_path / "store",
                number,
            )
            for number in range(first, first + count)
        ]

    return make
