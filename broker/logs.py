"""Log lines: JSON, bounded, with linking ids, and without patient data.

Adapters log ids (association, message control id, delivery), never names of people. A last filter here drops
keys that could carry them, escapes control characters and cuts a line at 2 KiB, whoever wrote it.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

from broker.errors import ConfigurationError

MAX_LINE_BYTES = 2048
_MAX_VALUE_CHARS = 512
# Names under which patient data might come by mistake; ids of messages and objects are wanted.
_PATIENT_KEYS = frozenset(
    {
        "patient",
        "patient_name",
        "patient_id",
        "birth_date",
        "name",
        "raw",
        "payload",
        "identifier",
        "accession_number",
        "data_set",
    }
)
_QUIET = (
    *("sqlalchemy", "kombu", "amqp", "alembic", "httpx", "uvicorn.access", "uvicorn.error"),
    # Two lines for every wake-up; what came of it is said by the worker.
    *("celery.redirected", "celery.worker.strategy", "celery.app.trace"),
)
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), 127, *range(128, 160))}


def configure_logging(*, role: str, level: str = "INFO", stream: TextIO | None = None) -> None:
    """Send structlog, the standard library's loggers and warnings through the same pipeline.

    Must run once per process, before anything logs. Raises ConfigurationError when there is no such level.
    """
    if level not in logging.getLevelNamesMapping():
        raise ConfigurationError(f"BROKER_LOG_LEVEL: {level!r} is not a level such as INFO or WARNING")
    target = stream or sys.stderr
    render = structlog.dev.ConsoleRenderer(colors=True) if target.isatty() else _render_json
    pid = os.getpid()

    def whose(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.setdefault("role", role)
        event.setdefault("pid", pid)
        return event

    shared: list[structlog.typing.Processor] = [
        whose,
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            *shared,
            structlog.processors.format_exc_info,
            drop_patient_data,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.processors.format_exc_info, drop_patient_data],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    # These print values of data sets: pydicom in warnings, pynetdicom at INFO, SQLAlchemy at INFO.
    logging.captureWarnings(capture=True)
    warnings.simplefilter("ignore", category=UserWarning)
    for noisy in ("pydicom", "pynetdicom", "py.warnings"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    for quiet in _QUIET:
        logging.getLogger(quiet).setLevel(logging.WARNING)


def drop_patient_data(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Drop keys that could carry patient data, escape control characters, bound every value."""
    for key in list(event):
        if key in _PATIENT_KEYS:
            event[key] = "[withheld]"
        elif isinstance(event[key], (str, bytes)):
            text = event[key] if isinstance(event[key], str) else repr(event[key])
            keep_lines = key == "exception"
            table = {k: v for k, v in _CONTROL.items() if not (keep_lines and k == 10)}
            text = text.translate(table)
            limit = MAX_LINE_BYTES if keep_lines else _MAX_VALUE_CHARS
            event[key] = text if len(text) <= limit else text[:limit] + "…"
    return event


_json = structlog.processors.JSONRenderer(sort_keys=False)


def _render_json(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
    line = str(_json(logger, method, event))
    if len(line.encode()) <= 2 * MAX_LINE_BYTES:
        return line
    kept = {key: event[key] for key in ("event", "level", "timestamp", "role", "pid") if key in event}
    return str(_json(logger, method, {**kept, "cut": True}))
