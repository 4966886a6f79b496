"""Builds the DICOM listeners of a wired broker, with the services each port offers."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Sequence

from broker.bootstrap import Broker
from broker.capturing import capture_taps
from broker.db.worklist_query import SqlWorklistReader
from broker.dicom.admission import AdmittedDevice, DevicePolicy, GuestList, Nobody, UnknownDevices
from broker.dicom.device_log import DeviceLog
from broker.dicom.guests import Guests
from broker.dicom.network.client import Proposal, Timeouts, open_association
from broker.dicom.network.limits import ServerLimits
from broker.dicom.network.negotiation import Offers
from broker.dicom.network.server import DicomServer
from broker.dicom.network.tls import ServerTls, TlsFiles
from broker.dicom.network.transfer_syntaxes import IMPLICIT_VR_LITTLE_ENDIAN
from broker.dicom.network.verification import VERIFICATION_SOP_CLASS_UID, verification_offer
from broker.dicom.objects.answers import WorklistEncoder
from broker.dicom.objects.header import ScanPlan
from broker.dicom.services.mpps import (
    PerformedStepService,
    performed_step_offer,
    performed_step_retrieve_offer,
)
from broker.dicom.services.query_log import QueryLog
from broker.dicom.services.storage import StorageService, storage_offers
from broker.dicom.services.worklist import WorklistService, worklist_offer
from broker.domain.character_sets import canonical_dicom_terms
from broker.domain.devices import DEFAULT_DEVICE, DeviceProfile
from broker.hl7.order_status import OrderStatusMessages
from broker.lookout import Lookout
from broker.settings import Device, DicomListener, StorageListener, Tls
from broker.workflow.captures_port import DICOM
from broker.workflow.images import Receipt, ReceivedObject, ResendPolicy, receive_images
from broker.workflow.probe_port import PROBE
from broker.workflow.procedure_steps import FeedbackTarget, PerformedPolicy
from broker.workflow.routing import Purpose, purpose_of
from broker.workflow.worklist import Worklist


def dicom_server(broker: Broker, *, storage: bool, others: bool) -> tuple[DicomServer, Callable[[], None]]:
    """Build a DICOM listener; `others` are worklist and MPPS. Answers it with what to call after it stopped."""
    site = broker.loaded.site
    listen: DicomListener | StorageListener = (
        site.listen.dicom if others else site.listen.storage or site.listen.dicom
    )
    offers = [verification_offer()]
    closers: list[Callable[[], None]] = []
    device_log = DeviceLog(
        broker.units_of_work,
        broker.clock.now,
        own_titles=frozenset({site.site.ae_title, PROBE}),
        listed=frozenset(device.ae_title for device in site.devices),
    )
    device_log.start()
    guests, taps = Guests(broker.clock.now), capture_taps(broker, DICOM)
    lookout = Lookout(
        lambda: broker.reports.standing_orders(now=broker.clock.now()),
        lambda orders: guests.follow(orders.admissions),
        lambda orders: taps.follow(orders.captures),
    )
    lookout.start()
    closers += [lookout.stop, taps.stop, device_log.stop]
    if others:
        query_log = QueryLog(
            broker.units_of_work,
            answered=device_log.answered,
            keeps_identifiers=bool(site.audit.collectors),
        )
        query_log.start()
        closers.append(query_log.stop)
        performed = performed_step_service(broker)
        offers += [
            worklist_offer(worklist_service(broker, query_log)),
            performed_step_offer(performed),
            performed_step_retrieve_offer(performed),
        ]
    fallback = None
    if storage:
        fallback = storage_offers(
            storage_service(broker),
            accept_unknown_storage=site.limits.storage.accept_unknown_storage,
            idle_timeout_s=site.limits.dicom.storage_idle_timeout.total_seconds(),
        )
    server = DicomServer(
        listen.host,
        listen.port,
        offers=Offers(offers, otherwise=fallback),
        policy=admission(broker, listen.host, guests),
        limits=server_limits(broker),
        tls=_dicom_tls(broker, listen.tls),
        reuse_port=listen.processes > 1,
        observer=device_log,
        taps=taps,
    )

    def close_all() -> None:
        for close_one in closers:
            close_one()

    return server, close_all


def storage_service(broker: Broker) -> StorageService:
    """Build the Storage SCP of a site; it scans what the routes in force ask for."""
    plan = ScanPlan.of(broker.loaded.routes.image_keys)
    policy = ResendPolicy(
        frozenset(
            name
            for name, settings in broker.loaded.site.destinations.items()
            if purpose_of(settings.kind, safekeeping=settings.safekeeping) is Purpose.STORAGE
        ),
        broker.loaded.site.limits.storage.resend_after,
    )

    def receive(batch: Sequence[ReceivedObject]) -> list[Receipt]:
        return receive_images(batch, broker.units_of_work, broker.clock, policy=policy)

    return StorageService(broker.files, receive, plan=lambda: plan)


def worklist_service(broker: Broker, query_log: QueryLog | None) -> WorklistService:
    """Build the worklist SCP of a site."""
    return WorklistService(
        Worklist(SqlWorklistReader(broker.engine), broker.clock),
        devices=device_profiles(broker),
        query_log=query_log,
        character_set=canonical_dicom_terms((broker.loaded.site.site.character_set,)) or (),
    )


def device_profiles(broker: Broker) -> Callable[[str], DeviceProfile]:
    """Answer how to find the profile of a calling AE title."""
    profiles = {device.ae_title: device_profile(device) for device in broker.loaded.site.devices}
    profiles.setdefault(PROBE, DeviceProfile(ae_title=PROBE))
    return lambda ae_title: profiles.get(ae_title, DEFAULT_DEVICE)


def device_profile(device: Device) -> DeviceProfile:
    """Answer how a device likes to be spoken to."""
    return DeviceProfile(
        ae_title=device.ae_title,
        modalities=device.modality,
        character_set=canonical_dicom_terms(device.character_set.split("\\")) or ()
        if device.character_set
        else (),
        max_results=device.max_results,
    )


def performed_step_service(broker: Broker) -> PerformedStepService:
    """Build the MPPS SCP of a site; its status messages go where `feedback` says."""
    site = broker.loaded.site
    feedback, messages = None, None
    if site.feedback is not None:
        kind = site.destinations[site.feedback.destination].kind
        feedback = FeedbackTarget(site.feedback.destination, kind)
        messages = OrderStatusMessages(
            broker.clock, message=site.feedback.message, sending_application=site.site.ae_title
        )
    return PerformedStepService(
        broker.units_of_work,
        clock=broker.clock,
        encoder=WorklistEncoder(),
        messages=messages,
        policy=PerformedPolicy(feedback=feedback),
        devices=device_profiles(broker),
    )


def admission(broker: Broker, host: str, guests: GuestList | None = None) -> DevicePolicy:
    """Answer who may open associations; the broker may ask itself, to prove that it serves."""
    site = broker.loaded.site
    devices = [_admitted(device) for device in site.devices]
    loopback = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1"))
    own = [*loopback, *([ipaddress.ip_network(host)] if _is_address(host) else ())]
    if site.site.ae_title not in {device.ae_title for device in devices}:
        devices.append(AdmittedDevice(site.site.ae_title, tuple(own)))
    if PROBE not in {device.ae_title for device in devices}:
        devices.append(AdmittedDevice(PROBE, tuple(own)))
    return DevicePolicy(
        site.site.ae_title,
        tuple(devices),
        UnknownDevices(site.listen.dicom.accept_unknown_devices),
        guests=guests or Nobody(),
    )


def _is_address(host: str) -> bool:
    try:
        return not ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _admitted(device: Device) -> AdmittedDevice:
    """Read where a device calls from: an address, a network, a name, or anywhere."""
    if not device.host:
        return AdmittedDevice(device.ae_title)
    try:
        return AdmittedDevice(device.ae_title, (ipaddress.ip_network(device.host, strict=False),))
    except ValueError:
        return AdmittedDevice(device.ae_title, host_name=device.host)


def server_limits(broker: Broker) -> ServerLimits:
    """Answer the engine's limits from the settings."""
    limits = broker.loaded.site.limits.dicom
    return ServerLimits(
        associations=limits.max_associations,
        unassociated=limits.max_unassociated,
        connections_per_unlisted_address=limits.max_associations_per_host,
        first_pdu_s=limits.first_pdu_timeout.total_seconds(),
        pdu_s=limits.pdu_timeout.total_seconds(),
        idle_s=limits.idle_timeout.total_seconds(),
        send_s=limits.send_timeout.total_seconds(),
    )


def _dicom_tls(broker: Broker, tls: Tls | None) -> ServerTls | None:
    if tls is None:
        return None
    trusted = broker.path(tls.client_ca) if tls.client_ca is not None else None
    files = TlsFiles(certificate=broker.path(tls.certificate), key=broker.path(tls.key), trusted=trusted)
    return ServerTls(files, require_client_certificate=tls.client_ca is not None)


def echo(host: str, port: int, ae_title: str) -> str:
    """Ask a listener of ours as a scanner would (C-ECHO); answer how long it took."""
    before = time.monotonic()
    timeouts = Timeouts(connect_s=3.0, association_s=3.0, response_s=3.0, release_s=1.0)
    with open_association(
        host,
        port,
        calling_ae_title=ae_title,
        called_ae_title=ae_title,
        contexts=[Proposal(VERIFICATION_SOP_CLASS_UID, (IMPLICIT_VR_LITTLE_ENDIAN,))],
        timeouts=timeouts,
    ) as association:
        status = association.echo()
    if status:
        raise OSError(f"C-ECHO answered {status:04X}")
    return f"port {port} answers C-ECHO in {(time.monotonic() - before) * 1000:.1f} ms"
