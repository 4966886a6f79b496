"""Until when the certificates of the site file are good."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from broker.workflow.alert_conditions import Certificate

if TYPE_CHECKING:
    from broker.bootstrap import Broker

_PEM = re.compile("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_FILES = frozenset({"certificate", "client_ca", "ca", "ca_file", "trusted"})
_SEQUENCE, _UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x30, 0x17, 0x18, 0xA0
_LARGEST = 1024 * 1024
_CENTURY = 50


def certificates(broker: Broker) -> list[Certificate]:
    """Answer every certificate the site file names, with the end of the first of its chain to end."""
    site = broker.loaded.site
    named = [*_named(site.listen, "listen"), *_named(site.alerts, "alerts")]
    for collector in site.audit.collectors:
        named += _named(collector, f"audit.collectors.{collector.name}")
    for name in site.destinations:
        named += _named(broker.destination_options(name), f"destinations.{name}")
    return [_certificate(key, broker.path(path)) for key, path in named]


def _named(value: Any, key: str) -> Iterator[tuple[str, Path]]:
    """Walk a part of the site file for keys that name certificates."""
    if not isinstance(value, BaseModel):
        return
    for name in type(value).model_fields:
        inner = getattr(value, name)
        if name in _FILES and isinstance(inner, (str, Path)):
            yield f"{key}.{name}", Path(inner)
        else:
            yield from _named(inner, f"{key}.{name}")


def _certificate(key: str, path: Path) -> Certificate:
    try:
        with path.open("rb") as file:
            ends_at = ends_of(file.read(_LARGEST).decode("ascii", "replace"))
    except (OSError, ValueError) as error:
        problem = error.strerror or "" if isinstance(error, OSError) else str(error)
        return Certificate(key, None, problem)
    return Certificate(key, ends_at)


def ends_of(pem: str) -> datetime:
    """Answer when the first of the certificates in a PEM text ends. Raises ValueError when there is none."""
    ends = [_not_after(ssl.PEM_cert_to_DER_cert(one)) for one in _PEM.findall(pem)]
    if not ends:
        raise ValueError("no certificate in it")
    return min(ends)


def _not_after(der: bytes) -> datetime:
    """Read notAfter of an X.509 certificate (RFC 5280 4.1): version, serial, algorithm, issuer, then validity."""
    try:
        _, certificate, _ = _element(der)
        _, rest, _ = _element(certificate)
        tag, _, after = _element(rest)
        if tag == _VERSION:
            rest = after
        for _ in range(3):
            _, _, rest = _element(rest)
        tag, validity, _ = _element(rest)
        _, _, after = _element(validity)
        kind, text, _ = _element(after)
        if tag != _SEQUENCE or kind not in {_UTC_TIME, _GENERALIZED_TIME}:
            raise ValueError("not a certificate")
        said = text.decode("ascii")
        if kind == _UTC_TIME:
            said = ("19" if int(said[:2]) >= _CENTURY else "20") + said
        return datetime.strptime(said, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
    except (IndexError, UnicodeDecodeError) as error:
        raise ValueError("not a certificate") from error


def _element(data: bytes) -> tuple[int, bytes, bytes]:
    """Answer tag, content and what follows of the first DER element."""
    tag, length, start = data[0], data[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[2:start], "big")
    if start + length > len(data):
        raise IndexError("cut off")
    return tag, data[start : start + length], data[start + length :]
