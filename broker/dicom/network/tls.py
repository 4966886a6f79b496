"""Make TLS contexts for the secure transport profiles of PS3.15 annex B, and renew them when files change."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

import structlog

log = structlog.get_logger(__name__)

_LOOK_EVERY_S: Final = 5.0
_NON_DOWNGRADING: Final = (  # PS3.15 B.10 asks for these four and lets stronger ones be added
    "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384:DHE-RSA-AES128-GCM-SHA256:DHE-RSA-AES256-GCM-SHA384:"
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384"
)
_EXTENDED: Final = (  # PS3.15 B.11: the four, the listed ECDSA ones, and no others
    "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384:DHE-RSA-AES128-GCM-SHA256:DHE-RSA-AES256-GCM-SHA384:"
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384"
)


class TlsProfile(Enum):
    """Name the secure transport connection profiles of PS3.15 that are offered; all need TLS 1.2 or newer."""

    BCP_195 = "bcp195"
    NON_DOWNGRADING_BCP_195 = "bcp195-non-downgrading"
    EXTENDED_BCP_195 = "bcp195-extended"


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """Name the PEM files of one side: who we are, and whom we believe."""

    certificate: Path | None = None
    key: Path | None = None
    trusted: Path | None = None

    def _paths(self) -> tuple[Path, ...]:
        return tuple(path for path in (self.certificate, self.key, self.trusted) if path is not None)

    def stamp(self) -> tuple[tuple[int, int, int], ...]:
        """Return what changes when one of the files is replaced."""
        found = (path.stat() for path in self._paths())
        return tuple((one.st_mtime_ns, one.st_size, one.st_ino) for one in found)


def _apply_profile(context: ssl.SSLContext, profile: TlsProfile) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A stream may end without a close_notify: the upper layer knows whether anything is missing, and a reader that
    # was interrupted so can still say its A-ABORT. (OpenSSL before 3 says it anyway.)
    context.options |= getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    if profile is TlsProfile.NON_DOWNGRADING_BCP_195:
        context.set_ciphers(_NON_DOWNGRADING)
    elif profile is TlsProfile.EXTENDED_BCP_195:
        context.set_ciphers(_EXTENDED)


class _Renewed:
    """Keep a context and make it anew when its files have changed; a bad replacement keeps the old one."""

    def __init__(
        self, files: TlsFiles, make: Callable[[], ssl.SSLContext], monotonic: Callable[[], float]
    ) -> None:
        self._files = files
        self._make = make
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._stamp = files.stamp()
        self._context = make()
        self._looked_at = monotonic()

    def get(self) -> ssl.SSLContext:
        with self._lock:
            now = self._monotonic()
            if now - self._looked_at >= _LOOK_EVERY_S:
                self._looked_at = now
                self._renew()
            return self._context

    def _renew(self) -> None:
        try:
            stamp = self._files.stamp()
            if stamp != self._stamp:
                self._context = self._make()
                self._stamp = stamp
                log.info("tls files renewed")
        except OSError as error:  # ssl.SSLError is one
            log.warning("tls files unusable", error=type(error).__name__)


class ServerTls:
    """Secure a listener; with `require_client_certificate` peers must show one that `trusted` vouches for."""

    def __init__(
        self,
        files: TlsFiles,
        *,
        profile: TlsProfile = TlsProfile.BCP_195,
        require_client_certificate: bool = True,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if files.certificate is None:
            raise ValueError("a TLS listener needs a certificate")
        if require_client_certificate and files.trusted is None:
            raise ValueError("requiring client certificates needs the authorities to trust")
        certificate = files.certificate

        def make() -> ssl.SSLContext:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            _apply_profile(context, profile)
            context.load_cert_chain(certificate, files.key)
            if files.trusted is not None:
                context.load_verify_locations(files.trusted)
                required = require_client_certificate
                context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
            return context

        self._renewed = _Renewed(files, make, monotonic)

    def context(self) -> ssl.SSLContext:
        """Return the current context."""
        return self._renewed.get()


class ClientTls:
    """Secure what we open; the peer must show a certificate that `trusted` (or the system) vouches for."""

    def __init__(
        self,
        files: TlsFiles,
        *,
        profile: TlsProfile = TlsProfile.BCP_195,
        check_host_name: bool = True,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        def make() -> ssl.SSLContext:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            _apply_profile(context, profile)
            # Peers in a hospital are often known by address, with certificates of a private authority.
            context.check_hostname = check_host_name
            if files.trusted is not None:
                context.load_verify_locations(files.trusted)
            else:
                context.load_default_certs(ssl.Purpose.SERVER_AUTH)
            if files.certificate is not None:
                context.load_cert_chain(files.certificate, files.key)
            return context

        self._renewed = _Renewed(files, make, monotonic)

    def context(self) -> ssl.SSLContext:
        """Return the current context."""
        return self._renewed.get()


def subject_of(sock: ssl.SSLSocket) -> str | None:
    """Return the subject of the peer's verified certificate, like `CN=CT1,O=Radiology`, or None."""
    certificate = sock.getpeercert()
    if not certificate:
        return None
    names = {"commonName": "CN", "organizationName": "O", "organizationalUnitName": "OU", "countryName": "C"}
    parts = [
        f"{names.get(str(key), str(key))}={value}"
        for relative in reversed(certificate.get("subject", ()))
        for key, value in relative
    ]
    return ",".join(parts) or None
