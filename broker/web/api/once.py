"""An `Idempotency-Key` makes asking twice harmless: the same request is answered as it was, and not done again.

    router = APIRouter(route_class=OnceRoute)

    @router.post("/api/deliveries/{delivery_id}/retry")
    def retry(board: TheDashboard, delivery_id: Id, who: TheOperator, key: TheKey) -> DeliveryLine:
        board.actions.act(delivery_id, Asked(Act.RETRY, who.name, key=key))

What acts takes the key in its own transaction; what is none takes it with `board.actions.requests.begun(key)`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Annotated, Any

from fastapi import Depends, Header, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute

from broker.errors import BrokerError, NotSignedIn
from broker.web.access import identify
from broker.web.pages import dashboard
from broker.web.viewing import Viewing
from broker.workflow.idempotency import RequestKey, request_key
from broker.workflow.idempotency_port import Answer

HEADER = "Idempotency-Key"
REPLAYED = "Idempotent-Replayed"
_HELP = "Chosen by whoever asks, kept for a day: a request that brings it again is answered as before, and not done again."
_Value = Annotated[
    str | None,
    Header(alias=HEADER, min_length=1, max_length=200, pattern=r"^[\x21-\x7e]+$", description=_HELP),
]


class AnsweredBefore(Exception):
    """The same request came before."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.answer = answer

    def response(self) -> Response:
        """Answer it as then."""
        headers = {REPLAYED: "true"}
        if self.answer.location is not None:
            headers["Location"] = self.answer.location
        return Response(self.answer.body, self.answer.status, headers, media_type="application/json")


async def _key(request: Request, value: _Value = None) -> RequestKey | None:
    """Make a key of the header, if it was sent. Raises AnsweredBefore, or Conflict when it stands for another request."""
    if value is None:
        return None
    who = await run_in_threadpool(identify, request)
    if who is None:
        raise NotSignedIn
    body = (await request.body()).decode("latin-1")
    asked = f"{request.method} {request.url.path}?{request.url.query}\n{body}"
    key = request_key(value, actor=who.name, asked=asked)
    answer = await run_in_threadpool(dashboard(request).actions.requests.answer, key)
    if answer is not None:
        await run_in_threadpool(Viewing(request).again, answer.shown)
        raise AnsweredBefore(answer)
    request.state.once = key
    return key


TheKey = Annotated[RequestKey | None, Depends(_key)]


class OnceRoute(APIRoute):
    """Keeps what a request with a key was answered."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Answer what handles a request."""
        handle = super().get_route_handler()

        async def handle_once(request: Request) -> Response:
            response = await handle(request)
            key: RequestKey | None = getattr(request.state, "once", None)
            if key is not None and response.status_code < 300:
                kept = Answer(
                    response.status_code,
                    bytes(response.body).decode(),
                    response.headers.get("location"),
                    Viewing(request).told,
                )
                with suppress(BrokerError):  # it is done, and its key is taken: that is what has to hold
                    await run_in_threadpool(dashboard(request).actions.requests.remember, key, kept)
            return response

        return handle_once
