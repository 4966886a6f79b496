"""HTTP/1.1 on the sockets of the web role: who connects and says nothing, or says it slowly, gives its place back.

Uvicorn counts connections and refuses what comes beyond its limit; without a deadline for the head and the body of a
request, a hundred silent connections would keep everybody out.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S = 20.0
"""From the connection, or the answer before, to the whole head of a request."""
BODY_S = 20.0
"""From the head to the end of the body; a form has 64 KiB, a call 1 MiB."""


class PromptProtocol(H11Protocol):
    """Closes a connection on which no whole head of a request comes in time."""

    head_s = HEAD_S

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._head_timer.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Wait for the request after this one."""
        super().on_response_complete()
        self._head_timer.cancel()
        self._wait_for_head()

    def _wait_for_head(self) -> None:
        self._head_timer = self.loop.call_later(self.head_s, self._head_is_late)

    def _head_is_late(self) -> None:
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if not is_answering and not self.transport.is_closing():
            self.transport.close()


class PromptBody:
    """Answers 408 when the body of a request does not come in time."""

    def __init__(self, app: ASGIApp, *, body_s: float = BODY_S) -> None:
        self._app = app
        self._body_s = body_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on the body as long as there is time for it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        clock = asyncio.get_running_loop()
        until, is_whole = clock.time() + self._body_s, False

        async def in_time() -> Message:
            nonlocal is_whole
            if is_whole:  # what comes now is that the peer has gone, whenever that is
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, until - clock.time()))
            except TimeoutError:
                raise HTTPException(408, "The request came too slowly.", {"Connection": "close"}) from None
            is_whole = not message.get("more_body", False)
            return message

        await self._app(scope, in_time, send)
