"""Captures as they are wired: where their bytes lie, what listeners hear them with, and what administrators do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.files.capture_store import CaptureLimits, CaptureStore
from broker.files.capture_taps import CaptureTaps
from broker.workflow.captures import CaptureOperations

if TYPE_CHECKING:
    from broker.bootstrap import Broker

FOLDER = "captures"
"""In the data directory."""


def capture_store(broker: Broker) -> CaptureStore:
    """Answer where the bytes of captures lie."""
    site = broker.loaded.site
    limits = CaptureLimits(
        max_bytes=site.captures.max_bytes,
        reserve_bytes=site.limits.storage.free_reserve_bytes,
        reserve_percent=site.limits.storage.free_reserve_percent,
    )
    return CaptureStore(broker.data_dir / FOLDER, limits)


def capture_operations(broker: Broker) -> CaptureOperations:
    """Answer what administrators do with captures."""
    return CaptureOperations(
        broker.units_of_work,
        broker.reports,
        capture_store(broker),
        broker.clock,
        keep=broker.loaded.site.captures.keep,
    )


def capture_taps(broker: Broker, protocol: str) -> CaptureTaps:
    """Answer what the listeners of one protocol hear with."""
    return CaptureTaps(capture_store(broker), protocol)
