"""What the site file says of devices, and what has to be typed into one so that it finds us."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

from pydicom.uid import UID

from broker.bootstrap import Broker
from broker.db.worklist_query import SqlWorklistReader
from broker.dicom.network.limits import ServerLimits
from broker.dicom.network.service import ServiceOffer
from broker.dicom.network.verification import verification_offer
from broker.dicom.services.mpps import performed_step_offer
from broker.dicom.services.worklist import worklist_offer
from broker.dicom_role import device_profiles, performed_step_service, server_limits, worklist_service
from broker.settings import Device, DicomListener, StorageListener
from broker.workflow.devices import KnownDevice
from broker.workflow.entries import Asked, query_of
from broker.workflow.passport import OfferedService, Passport, Setting
from broker.workflow.worklist import Worklist

MOST_SEEN = 200
_EVERYWHERE = ("0.0.0.0", "::", "")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def known_devices(broker: Broker) -> list[KnownDevice]:
    """Answer the devices of the site file."""
    return [_known(device) for device in broker.loaded.site.devices]


def _known(device: Device) -> KnownDevice:
    return KnownDevice(device.ae_title, device.host or "", device.modality, device.contact)


def seen_by(broker: Broker, ae_title: str, asked: Asked) -> Sequence[int]:
    """Answer the steps a device would be shown now, asking like this; at most MOST_SEEN."""
    device = replace(device_profiles(broker)(ae_title), ae_title=ae_title)
    worklist = Worklist(SqlWorklistReader(broker.engine), broker.clock)
    query = query_of(asked, device, now=broker.clock.local_now())
    return [answer.step for answer in islice(worklist.find(query, device), MOST_SEEN)]


def passport(broker: Broker, ae_title: str) -> Passport:
    """Answer what has to be typed into a device, listed or not."""
    site = broker.loaded.site
    device = next((one for one in site.devices if one.ae_title == ae_title), None)
    images = site.listen.storage or site.listen.dicom
    return Passport(
        ae_title=ae_title,
        known=_known(device) if device else None,
        host=None if site.listen.dicom.host in _EVERYWHERE else site.listen.dicom.host,
        is_local=site.listen.dicom.host in _LOOPBACK,
        settings=tuple(_settings(broker, device, images)),
        services=tuple(_services(broker, images)),
    )


def _settings(
    broker: Broker, device: Device | None, images: DicomListener | StorageListener
) -> Iterator[Setting]:
    site, listen, limits = broker.loaded.site, broker.loaded.site.listen.dicom, server_limits(broker)
    yield Setting("Called AE title", site.site.ae_title, "also: remote AE, server AE, SCP AE; capitals count")
    ports = f"{listen.port}" if images.port == listen.port else f"{listen.port}, images {images.port}"
    yield Setting("Port", ports, "worklist and MPPS, images unless they have one of their own")
    yield Setting("TLS", _tls(listen), "")
    if images is not listen and (images.tls is None) != (listen.tls is None):
        yield Setting("TLS for images", _tls(images), "")
    answered = device.character_set if device and device.character_set else site.site.character_set
    yield Setting("Character set", answered, "(0008,0005) of the answers unless the query names another")
    yield Setting("Largest PDU", f"{limits.advertised_pdu_bytes:,} bytes", "what we take; smaller is fine")
    yield from _times(limits)
    if device is not None:
        yield Setting("Calls from", device.host or "any address", "what the site file expects")
        made = ", ".join(device.modality) or "not said"
        yield Setting("Modality", made, "orders without a station are offered by it")
        if device.max_results is not None:
            yield Setting(
                "Most answers", str(device.max_results), "the first of the list; the cut is recorded"
            )


def _times(limits: ServerLimits) -> Iterator[Setting]:
    yield Setting("Association idle", f"{limits.idle_s:g} s", "then we end it; images have their own time")


def _tls(listen: DicomListener | StorageListener) -> str:
    if listen.tls is None:
        return "off"
    return "on, with a client certificate" if listen.tls.client_ca else "on, no client certificate asked for"


def _services(broker: Broker, images: DicomListener | StorageListener) -> Iterator[OfferedService]:
    port = broker.loaded.site.listen.dicom.port
    yield _service("Verification (C-ECHO)", verification_offer(), port)
    yield _service("Modality Worklist (C-FIND)", worklist_offer(worklist_service(broker, None)), port)
    performed = performed_step_offer(performed_step_service(broker))
    yield _service("Modality Performed Procedure Step (N-CREATE, N-SET)", performed, port)
    yield OfferedService(
        "Storage (C-STORE)", "every storage SOP class", "every transfer syntax, kept as sent", images.port
    )


def _service(name: str, offer: ServiceOffer, port: int) -> OfferedService:
    syntaxes = ", ".join(UID(syntax).name for syntax in offer.transfer_syntaxes)
    return OfferedService(name, offer.abstract_syntax, syntaxes, port)
