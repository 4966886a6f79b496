"""Alerts as signed JSON to a web address.

The name is resolved once and the connection goes to that very address, so that a name cannot point elsewhere between
the check and the call; addresses of the machine's own link, where clouds answer with secrets, are refused; a redirect
is not followed.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import ipaddress
import json
import socket
import ssl
from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlsplit

from broker.settings import WebhookChannel
from broker.workflow.alerts_port import ChannelFailed, Message

TIMEOUT_S = 10.0
SIGNATURE = "X-Broker-Signature"
"""`t=<seconds since 1970>,v1=<hex of HMAC-SHA256 of "t.body" with the shared secret>`."""
_FORBIDDEN = tuple(
    ipaddress.ip_network(one)
    # Where clouds hand out credentials, beyond the link-local ones.
    for one in ("100.100.100.200/32", "168.63.129.16/32", "fd00:ec2::254/128", "192.0.0.192/32")
)
_OK = range(200, 300)


class Webhook:
    """Implements the Channel port: one POST for each message."""

    name = "webhook"

    def __init__(self, settings: WebhookChannel, *, secret: str | None, folder: Path = Path()) -> None:
        """Prepare; nothing is resolved yet. Files of the settings are relative to `folder`."""
        self._ca = str(folder / settings.ca) if settings.ca else None
        self._settings = settings
        self._secret = secret

    def send(self, message: Message) -> None:
        """Post the message. Raises ChannelFailed."""
        url = urlsplit(self._settings.url)
        host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
        body = body_of(message)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "worklist-broker",
            "Idempotency-Key": message.id,
        }
        if self._secret:
            headers[SIGNATURE] = signature(self._secret, int(message.at.timestamp()), body)
        try:
            address = resolve(host, port)
            connection = _connection(url.scheme, host, port, address, self._ca)
            try:
                path = (url.path or "/") + (f"?{url.query}" if url.query else "")
                connection.request("POST", path, body=body, headers=headers)
                status = connection.getresponse().status
            finally:
                connection.close()
        except (OSError, http.client.HTTPException) as error:
            raise ChannelFailed(f"{host}:{port}: {type(error).__name__}") from error
        if status not in _OK:
            raise ChannelFailed(f"{host}:{port} answers {status}")


def body_of(message: Message) -> bytes:
    """Answer the message as JSON."""
    lines = [
        {**asdict(line), "notice": line.notice.name.lower(), "since": line.since.isoformat()}
        for line in message.lines
    ]
    body = {"id": message.id, "site": message.site, "at": message.at.isoformat(), "alerts": lines}
    return json.dumps(body, ensure_ascii=False).encode()


def signature(secret: str, at_s: int, body: bytes) -> str:
    """Answer the value of the header that proves who sent a body, and when."""
    digest = hmac.new(secret.encode(), f"{at_s}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at_s},v1={digest}"


def resolve(host: str, port: int) -> str:
    """Answer the address to connect to. Raises ChannelFailed when any of the host's is one we do not talk to."""
    found = [str(one[4][0]) for one in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    for address in found:
        if is_forbidden(address):
            raise ChannelFailed(f"{host} is at {address}, which is not called")
    return found[0]


def is_forbidden(address: str) -> bool:
    """Tell whether no webhook can rightly be there: the link's own addresses, groups, and clouds' metadata."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        ip = ip.ipv4_mapped or ip.sixtofour or ip
    if ip.is_link_local or ip.is_multicast or ip.is_unspecified:
        return True
    return any(ip.version == network.version and ip in network for network in _FORBIDDEN)


def _connection(
    scheme: str, host: str, port: int, address: str, ca: str | None
) -> http.client.HTTPConnection:
    """Connect to an address, speaking to the host by its name."""
    plain = socket.create_connection((address, port), timeout=TIMEOUT_S)
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    if scheme == "https":
        context = ssl.create_default_context(cafile=ca)
        try:
            connection.sock = context.wrap_socket(plain, server_hostname=host)
        except BaseException:
            plain.close()
            raise
    else:
        connection.sock = plain
    return connection
