"""Who connects to the pages and says nothing, or says it slowly, gives its place back; everybody else is served."""

import http.client
import socket
import threading
from contextlib import contextmanager

import pytest
import uvicorn
from fastapi import FastAPI, Request

from broker.web_protocol import PromptBody, PromptProtocol
from tests.broker_process import wait_until

LONG_S = 30


@contextmanager
def a_server(*, head_s=LONG_S, body_s=LONG_S):
    app = FastAPI()

    @app.post("/form")
    async def form(request: Request) -> dict[str, int]:
        return {"bytes": len(await request.body())}

    @app.get("/")
    async def page() -> str:
        return "page"

    config = uvicorn.Config(
        PromptBody(app, body_s=body_s),
        http=type("Prompt", (PromptProtocol,), {"head_s": head_s}),
        log_config=None,
        limit_concurrency=8,
        timeout_keep_alive=10 * LONG_S,
    )
    server = uvicorn.Server(config)
    bound = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started, what="the server")
        yield bound.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)


def is_closed(connection):
    connection.settimeout(LONG_S)
    try:
        while connection.recv(4096):
            pass
    except ConnectionError:
        pass
    return True


@pytest.mark.parametrize("said", [b"", b"G", b"POST /form HTTP/1.1\r\nHost: x\r\n"])
def test_silent_and_slow_connections_do_not_keep_others_out(said):
    with a_server(head_s=0.5) as port:
        crowd = [socket.create_connection(("127.0.0.1", port)) for _ in range(8)]
        for one in crowd:
            one.sendall(said)

        def is_served():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LONG_S)
            try:
                connection.request("GET", "/")
                return connection.getresponse().status == 200
            except (OSError, http.client.HTTPException):
                return False
            finally:
                connection.close()

        wait_until(is_served, timeout_s=LONG_S, what="an answer to somebody else")
        assert all(is_closed(one) for one in crowd)
        for one in crowd:
            one.close()


def test_a_body_that_comes_slowly_is_answered_408_and_its_connection_closed():
    with a_server(body_s=0.5) as port, socket.create_connection(("127.0.0.1", port)) as slow:
        slow.sendall(b"POST /form HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
        slow.settimeout(LONG_S)
        answer = b""
        while part := slow.recv(4096):
            answer += part
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"too slowly" in answer


def test_requests_on_one_connection_are_answered_one_after_another():
    with a_server(head_s=5) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LONG_S)
        for number in range(5):
            connection.request("POST", "/form", b"x" * number)
            assert connection.getresponse().read() == b'{"bytes":%d}' % number
        kept = connection.sock
        assert is_closed(kept), "an idle connection is given back too"
        connection.close()
