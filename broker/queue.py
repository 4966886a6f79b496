"""Wake the workers through Celery: hints that may be lost, never on the path that answers a peer.

Everything published is the name of a task and one integer. Messages go to their queue by name, without an
exchange: an emptied Redis then has no bindings to miss.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

import redis
import structlog
from celery import Celery
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from redis.backoff import NoBackoff
from redis.retry import Retry

from broker.errors import ConfigurationError
from broker.failpoints import failpoint
from broker.workflow.wake_ups import Task, WakeUp

ROUTE_QUEUE = "route"
VISIBILITY_TIMEOUT_S = 900
"""Longer than any slice of work: a task that outlives it is started twice, harmlessly but in vain."""
MAX_SOCKET_PATH_BYTES = 107
"""sun_path holds 108 bytes with the closing zero (unix(7))."""
MAX_WAITING = 10_000
MAX_PER_DESTINATION = 16
"""Wake-ups for one destination in one batch: each worker that comes goes on with what is due there."""

_PLAIN_PATH = re.compile(r"[A-Za-z0-9/._-]+")

log = structlog.get_logger()


def redis_url(data_dir: Path, configured: str | None = None) -> str:
    """Answer the address of Redis: the configured one, else the bundled server's socket."""
    return configured or f"redis+socket://{embedded_socket(data_dir)}"


def embedded_socket(data_dir: Path) -> Path:
    """Answer where the bundled server listens: in the data directory.

    Where that path is too long for a socket, or not plain enough for a URL that every reader of it understands
    in the same way, in a runtime directory of ours.
    """
    path = data_dir.resolve() / "valkey" / "valkey.sock"
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES and _PLAIN_PATH.fullmatch(str(path)):
        return path
    name = f"broker-{os.getuid()}-{blake2b(os.fsencode(path), digest_size=8).hexdigest()}"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    # The temporary directory is everybody's: the server refuses a directory there that is not its own.
    for base in (runtime, tempfile.gettempdir(), "/tmp"):  # noqa: S108
        if base and len(os.fsencode(short := Path(base) / name / "valkey.sock")) <= MAX_SOCKET_PATH_BYTES:
            return short
    raise ConfigurationError("no place for a socket; set BROKER_REDIS_URL")


def doorbell_path(data_dir: Path) -> Path:
    """Answer where the sweep of this host can be rung at while Redis is away."""
    return embedded_socket(data_dir).with_name(
        "bell.sock"
    )  # shorter than its neighbour, which is known to fit


def deliver_queue(kind: str | None) -> str:
    """Answer the queue for deliveries to a kind of destination: a slow kind does not hold up the others."""
    return f"deliver.{kind}" if kind else "deliver"


def queue_names(kinds: Iterable[str]) -> tuple[str, ...]:
    """Answer every queue a worker listens to."""
    return (ROUTE_QUEUE, deliver_queue(None), *(deliver_queue(kind) for kind in sorted(set(kinds))))


def celery_settings(
    redis_url: str, kinds: Iterable[str], *, socket_timeout_s: float = 10.0, connect_timeout_s: float = 5.0
) -> dict[str, Any]:
    """Answer how Celery is used: the database is the truth, messages are hints."""
    return {
        "broker_url": redis_url,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_transport_options": {
            "visibility_timeout": VISIBILITY_TIMEOUT_S,
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
            "socket_timeout": socket_timeout_s,
            "socket_connect_timeout": connect_timeout_s,
            "socket_keepalive": True,
            "health_check_interval": 10,
            "retry_on_timeout": True,
            "queue_order_strategy": "round_robin",
        },
        "task_queues": [_queue(name) for name in queue_names(kinds)],
        "task_default_queue": ROUTE_QUEUE,
        "task_default_routing_key": ROUTE_QUEUE,
        "task_default_exchange": "",
        "accept_content": ["json"],
        "task_serializer": "json",
        "result_backend": None,
        "task_ignore_result": True,
        "task_store_errors_even_if_ignored": False,
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
        # Claims in the database keep work from being done twice: a lost connection cancels nothing.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "worker_enable_remote_control": True,
        "worker_send_task_events": False,
        "worker_state_db": None,
        "task_publish_retry": False,
    }


def _queue(name: str) -> Queue:
    """Describe a queue that is reached by its name, through the exchange that needs no binding."""
    return Queue(name, exchange=Exchange("", type="direct"), routing_key=name)  # type: ignore[no-untyped-call]


def _nobody_hears(_wake_ups: Sequence[WakeUp]) -> None:
    """Leave it to the next sweep."""


class CeleryQueue:
    """Implements the TaskQueue port: one publishing thread per process, a bounded set of what waits.

    While Redis does not answer, wake-ups are rung at the sweep of this host, and those that do not reach it are
    dropped: it names everything due again.
    """

    def __init__(
        self,
        redis_url: str,
        *,
        ring: Callable[[Sequence[WakeUp]], None] = _nobody_hears,
        max_waiting: int = MAX_WAITING,
        socket_timeout_s: float = 2.0,
        first_pause_s: float = 0.5,
        max_pause_s: float = 5.0,
        rest_s: float = 0.02,
        max_rest_s: float = 0.04,
    ) -> None:
        """Prepare; nothing is connected and no thread runs before the first wake-up."""
        self._redis_url = redis_url
        self._ring = ring
        self._max_waiting = max_waiting
        self._socket_timeout_s = socket_timeout_s
        self._first_pause_s = first_pause_s
        self._max_pause_s = max_pause_s
        self._rest_s = rest_s
        self._max_rest_s = max_rest_s
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._waiting: dict[WakeUp, None] = {}
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self._is_down = False
        self._is_resting = False
        self.dropped = 0
        self.published = 0

    def wake(self, wake_ups: Iterable[WakeUp]) -> None:
        """Hand over to the publishing thread; never blocks, never raises."""
        if self._pid != os.getpid():
            self._forget_inherited()
        new = list(wake_ups)
        if self._is_down:
            self._ring(coalesced(new))
        with self._changed:
            if self._is_closed:
                return
            for wake_up in new:
                if wake_up in self._waiting or len(self._waiting) < self._max_waiting:
                    self._waiting[wake_up] = None
                else:
                    self.dropped += 1
            if self._thread is None and self._waiting:
                self._thread = threading.Thread(target=self._publish_all, name="wake-ups", daemon=True)
                self._thread.start()
            if not self._is_resting:
                self._changed.notify()

    def close(self, *, timeout_s: float = 2.0) -> None:
        """Publish what waits, if that is possible in time, and end the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        if self._thread is not None and self._pid == os.getpid():
            self._thread.join(timeout_s)

    @property
    def is_connected(self) -> bool:
        """Answer whether the last wake-up went out."""
        return not self._is_down

    def _forget_inherited(self) -> None:
        """Start anew in a fork: it has no publishing thread, and locks may have been held."""
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._waiting = {}
        self._thread = None
        self._is_down = False
        self._is_resting = False

    def _publish_all(self) -> None:
        publisher = _Publisher(self._redis_url, socket_timeout_s=self._socket_timeout_s)
        pause_s = self._first_pause_s
        while True:
            batch = self._take()
            if batch is None:
                publisher.close()
                return
            try:
                failpoint("wake_up.before_publish")
                publisher.publish(coalesced(batch))
                failpoint("wake_up.after_publish")
                self.published += len(batch)
            except Exception as error:  # whatever Redis, kombu or the network raise: hints are lost, not work
                publisher.close()
                self.dropped += len(batch)
                if not self._is_down:
                    self._is_down = True
                    self._ring(coalesced(batch))  # what comes from now on is rung as it comes
                    log.warning("wake-ups are not published", error=type(error).__name__)
                self._pause(pause_s)
                pause_s = min(self._max_pause_s, pause_s * 2)
                continue
            pause_s = self._first_pause_s
            if self._is_down:
                self._is_down = False
                log.info("wake-ups are published again", dropped=self.dropped)
            # A push of 4,000 images is some 25 wake-ups a second, not one for each image: publishing costs as much
            # processor time as receiving does, and takes the interpreter from whoever receives. Who was woken
            # goes on with what comes meanwhile; only the last image of a push waits for the rest to end.
            self._pause(min(self._max_rest_s, self._rest_s * len(batch)))

    def _take(self) -> list[WakeUp] | None:
        """Wait for wake-ups; None when there will be none any more."""
        with self._changed:
            while not self._waiting and not self._is_closed:
                self._changed.wait()
            batch = list(self._waiting)
            self._waiting.clear()
            return batch or None

    def _pause(self, pause_s: float) -> None:
        """Rest, and let nobody but `close` disturb it."""
        until_s = time.monotonic() + pause_s
        with self._changed:
            self._is_resting = True
            while not self._is_closed and (left_s := until_s - time.monotonic()) > 0:
                self._changed.wait(left_s)
            self._is_resting = False


def coalesced(wake_ups: Sequence[WakeUp]) -> list[WakeUp]:
    """Leave out what other wake-ups of the batch bring about.

    One ROUTE is enough, for its worker goes on until nothing is undecided; and a few for each destination.
    """
    kept, seen = list[WakeUp](), dict[tuple[Task, str | None], int]()
    for wake_up in wake_ups:
        if wake_up.task is Task.DELIVER and wake_up.destination is None:
            kept.append(wake_up)
            continue
        key = (wake_up.task, wake_up.destination)
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= (1 if wake_up.task is Task.ROUTE else MAX_PER_DESTINATION):
            kept.append(wake_up)
    return kept


class _Publisher:
    """Sends task messages over one connection of its own."""

    def __init__(self, redis_url: str, *, socket_timeout_s: float) -> None:
        self._app = Celery("broker", set_as_current=False)
        self._app.conf.update(
            celery_settings(
                redis_url, (), socket_timeout_s=socket_timeout_s, connect_timeout_s=socket_timeout_s
            )
        )
        # One try: kombu would otherwise go on for seconds, and the sweep is the better second try.
        self._app.conf.broker_transport_options |= {
            "retry_on_timeout": False,
            "max_retries": 0,
            "interval_start": 0,
        }
        self._connection: Connection | None = None
        self._producer: Any = None

    def publish(self, wake_ups: Sequence[WakeUp]) -> None:
        """Send each; a connection that has gone stale is replaced once."""
        is_fresh = self._connection is None
        position = 0
        while position < len(wake_ups):
            try:
                self._send(wake_ups[position])
                position += 1
            except Exception:
                self.close()
                if is_fresh:
                    raise
                is_fresh = True

    def close(self) -> None:
        """Give the connection back."""
        connection, self._connection, self._producer = self._connection, None, None
        if connection is not None:
            with suppress(Exception):  # it is being thrown away
                connection.close()  # type: ignore[no-untyped-call]

    def _send(self, wake_up: WakeUp) -> None:
        if self._connection is None:
            self._connection = self._app.connection_for_write()
            self._producer = self._app.amqp.Producer(self._connection, auto_declare=False)
        is_route = wake_up.task is Task.ROUTE
        name = ROUTE_QUEUE if is_route else deliver_queue(wake_up.destination_kind)
        self._app.send_task(
            wake_up.task.value,
            args=[wake_up.id],
            queue=_queue(name),
            producer=self._producer,
            retry=False,
            ignore_result=True,
        )


class RedisProbe:
    """Asks Redis whether it answers and how many wake-ups nobody has taken yet."""

    def __init__(self, redis_url: str, kinds: Iterable[str], *, timeout_s: float = 1.0) -> None:
        self._names = queue_names(kinds)
        url = redis_url.replace("redis+socket://", "unix://", 1)
        self._client = redis.Redis.from_url(
            url,
            socket_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
            **({} if url.startswith("unix://") else {"socket_connect_timeout": timeout_s}),
        )

    def backlog(self) -> int | None:
        """Answer how many wake-ups wait; None when Redis does not answer."""
        try:
            with self._client.pipeline(transaction=False) as pipeline:
                for name in self._names:
                    pipeline.llen(name)
                return sum(int(length) for length in pipeline.execute())
        except (redis.RedisError, OSError):
            return None

    def close(self) -> None:
        """Give the connection back."""
        with suppress(redis.RedisError, OSError):
            self._client.close()
