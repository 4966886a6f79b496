"""A site with routes, images that come to it, and what became of them."""

from __future__ import annotations

from collections import Counter

from broker.workflow.images_port import Instance, InstanceState
from broker.workflow.routing import RoutedDestination, purpose_of
from broker.workflow.unit_of_work import UnitsOfWork
from tests.builders import an_instance

STUDY = "1.2.826.0.1.1"
SERIES = "1.2.826.0.1.1.1"
MATCHING_FACTS = {"Modality": ("CT",), "PatientID": ("PID1",), "PatientName": ("HAYDN1^JOSEPH",)}
DESTINATIONS = {
    name: RoutedDestination(name, kind, purpose_of(kind, safekeeping=name == "archive"), title)
    for name, kind, title in (
        ("archive", "dicom", "PACS"),
        ("cad", "dicom", "CADX"),
        ("film", "print", "FILM"),
        ("copies", "folder", None),
    )
}
ROUTES = [
    {"name": "ct-to-cad", "when": {"Modality": "CT"}, "send": ["cad"]},
    {"name": "all-to-archive", "when": {"Modality": {"not": "XX"}}, "send": ["archive"]},
]


def store(uows: UnitsOfWork, *instances: Instance) -> list[int]:
    with uows() as uow:
        ids = uow.instances.add_many(instances)
        uow.commit()
    return ids


def an_image(number: int = 1, **changes) -> Instance:
    return an_instance(number, **{"facts": MATCHING_FACTS, **changes})


def deliveries(uows: UnitsOfWork, *instances: int):
    with uows() as uow:
        found = {d.id: d for key in instances for d in uow.deliveries.of_instance(key)}
    return [found[key] for key in sorted(found)]


def state_of(uows: UnitsOfWork, instance: int) -> InstanceState:
    with uows() as uow:
        return uow.instances.get(instance).state


def event_names(uow_factory, engine) -> Counter[str]:
    with engine.connect() as connection:
        return Counter(connection.exec_driver_sql("SELECT name FROM event").scalars())
