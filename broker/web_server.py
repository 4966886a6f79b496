"""Runs the web application in a thread of its role."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from typing import Any

import uvicorn

from broker.bootstrap import Broker
from broker.dashboard import dashboard
from broker.roles import reachable
from broker.settings import Tls
from broker.web.app import create_app
from broker.web_protocol import PromptBody, PromptProtocol


class WebServer:
    """Uvicorn around the application; told to stop by its role, not by signals."""

    def __init__(self, broker: Broker) -> None:
        """Bind nothing yet."""
        listen = broker.loaded.site.listen.web
        self._host, self._port, self._tls = listen.host, listen.port, listen.tls
        self._socket: socket.socket | None = None
        self._app = create_app(dashboard(broker))
        self._server = uvicorn.Server(
            uvicorn.Config(
                PromptBody(self._app),
                http=PromptProtocol,
                log_config=None,
                access_log=False,
                server_header=False,
                limit_concurrency=128,  # half of them may be streams
                timeout_keep_alive=15,
                timeout_graceful_shutdown=5,
                h11_max_incomplete_event_size=16 * 1024,
                # Who stands behind a proxy is found out by the application, from the addresses the site names.
                proxy_headers=False,
                **_certificates(broker, listen.tls),
            )
        )
        self._thread = threading.Thread(target=self._run, name="web", daemon=True)

    def start(self) -> None:
        """Bind and serve. Raises OSError when the port cannot be had."""
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((self._host, self._port))
        bound.listen(128)
        self._socket = bound
        self._port = bound.getsockname()[1]
        self._thread.start()

    def _run(self) -> None:
        assert self._socket is not None
        self._server.run(sockets=[self._socket])

    @property
    def alive(self) -> bool:
        """Tell whether it still runs."""
        return self._thread.is_alive()

    def prove(self) -> str:
        """Fetch a page as a browser would."""
        before = time.monotonic()
        host = reachable(self._host)
        if self._tls and self._tls.client_ca:  # we have no certificate to show ourselves
            socket.create_connection((host, self._port), timeout=5.0).close()
            return f"port {self._port} accepts connections"
        connection = (
            http.client.HTTPSConnection(host, self._port, timeout=5.0, context=_itself())
            if self._tls
            else http.client.HTTPConnection(host, self._port, timeout=5.0)
        )
        try:
            connection.request("GET", "/static/favicon.svg")
            status = connection.getresponse().status
        finally:
            connection.close()
        if status != 200:
            raise OSError(f"answered {status}")
        return f"port {self._port} answers in {(time.monotonic() - before) * 1000:.1f} ms"

    def stop(self, grace_s: float) -> None:
        """Finish what runs, then stop."""
        self._app.state.live.close()
        self._server.should_exit = True
        self._thread.join(grace_s)


def _certificates(broker: Broker, tls: Tls | None) -> dict[str, Any]:
    if tls is None:
        return {}
    found: dict[str, Any] = {
        "ssl_certfile": broker.path(tls.certificate),
        "ssl_keyfile": broker.path(tls.key),
    }
    if tls.client_ca is not None:
        found |= {"ssl_ca_certs": str(broker.path(tls.client_ca)), "ssl_cert_reqs": ssl.CERT_REQUIRED}
    return found


def _itself() -> ssl.SSLContext:
    """Talk to our own listener on this machine, whatever name its certificate is for."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
