"""Builds the HL7 listener of a wired broker."""

from __future__ import annotations

import ipaddress
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from broker.bootstrap import Broker
from broker.capturing import capture_taps
from broker.db.installation import uid_namespace
from broker.dicom.objects.answers import WorklistEncoder
from broker.errors import ConfigurationError
from broker.hl7.charsets import charset_named
from broker.hl7.intake import Intake
from broker.hl7.listener import ListenerLimits, MllpListener, run_listener
from broker.hl7.mapping import MappingSet
from broker.hl7.use_cases import UseCases
from broker.lookout import Lookout
from broker.settings import Tls
from broker.workflow.captures_port import HL7
from broker.workflow.order_policy import OrderPolicy

START_TIMEOUT_S = 15.0


class Hl7Listener:
    """Runs the MLLP listener in a thread of its role."""

    def __init__(
        self, listener: MllpListener, wanted_port: int, closers: Sequence[Callable[[], None]] = ()
    ) -> None:
        """Keep the listener, and what to call after it stopped; nothing is bound yet."""
        self._listener = listener
        self._closers = closers
        self._port = wanted_port
        self._stop = threading.Event()
        self._grace_s = 10.0
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="hl7", daemon=True)

    def start(self) -> None:
        """Bind and serve. Raises OSError when the port cannot be had."""
        self._thread.start()
        deadline = time.monotonic() + START_TIMEOUT_S
        while self._failure is None and time.monotonic() < deadline:
            try:
                self._port = self._listener.address[1]
            except AssertionError:
                self._thread.join(0.01)
                continue
            return
        raise self._failure or OSError("the HL7 listener did not start")

    @property
    def port(self) -> int:
        """Answer the port listened on."""
        return self._port

    @property
    def alive(self) -> bool:
        """Tell whether it still runs."""
        return self._thread.is_alive()

    def stop(self, grace_s: float) -> None:
        """Finish and answer what is under way, then stop."""
        self._stop.set()
        self._thread.join(grace_s)
        for close_one in self._closers:
            close_one()

    def _run(self) -> None:
        try:
            run_listener(self._listener, self._stop, grace_s=self._grace_s)
        except BaseException as error:
            self._failure = error
            raise


def hl7_listener(broker: Broker) -> Hl7Listener:
    """Build the HL7 listener of a site."""
    site = broker.loaded.site
    listen, limits = site.listen.hl7, site.limits.hl7
    charset = charset_named(listen.default_character_set)
    if charset is None:
        raise ConfigurationError(
            f"listen.hl7.default_character_set: {listen.default_character_set!r} is not in HL7 table 0211"
        )
    mappings = MappingSet.load(mapping_directory(broker), site_zone=broker.zone)
    intake = Intake(
        broker.units_of_work,
        UseCases(broker.clock, WorklistEncoder(), order_policy(broker)),
        lambda: mappings,
        clock=broker.clock,
        default_charset=charset,
    )
    taps = capture_taps(broker, HL7)
    lookout = Lookout(
        lambda: broker.reports.standing_orders(now=broker.clock.now()),
        lambda orders: taps.follow(orders.captures),
    )
    lookout.start()
    listener = MllpListener(
        intake,
        broker.clock,
        host=listen.host,
        port=listen.port,
        tls=_hl7_tls(broker, listen.tls),
        allow=[ipaddress.ip_network(network, strict=False) for network in listen.allow],
        limits=ListenerLimits(
            max_connections=limits.max_connections,
            max_connections_per_host=limits.max_connections_per_host,
            max_message_bytes=limits.max_message_bytes,
            frame_timeout_s=limits.frame_timeout.total_seconds(),
        ),
        taps=taps,
    )
    return Hl7Listener(listener, listen.port, (lookout.stop, taps.stop))


def mapping_directory(broker: Broker) -> Path | None:
    """Answer `hl7/` next to the site file, where a site overrides the shipped mapping; None: it has none."""
    folder = broker.loaded.path.absolute().parent / "hl7"
    return folder if folder.is_dir() else None


def order_policy(broker: Broker) -> OrderPolicy:
    """Answer what this site decides about orders."""
    stations: dict[str, tuple[str, ...]] = {}
    for device in broker.loaded.site.devices:
        for modality in device.modality:
            stations[modality] = (*stations.get(modality, ()), device.ae_title)
    return OrderPolicy(uid_namespace=uid_namespace(broker.engine, now=broker.clock.now()), stations=stations)


def _hl7_tls(broker: Broker, tls: Tls | None) -> ssl.SSLContext | None:
    if tls is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(broker.path(tls.certificate), broker.path(tls.key))
    if tls.client_ca is not None:
        context.load_verify_locations(broker.path(tls.client_ca))
        context.verify_mode = ssl.CERT_REQUIRED
    return context
