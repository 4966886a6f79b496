"""Imports much at once: what is loaded stays, so nobody looks through it for garbage, not then and not later."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def staying() -> Iterator[None]:
    """Keep the collector out of what is imported in here.

    Left to itself it looks through 200,000 objects again and again, which is a quarter of the time of all
    imports, and finds 2,000. Afterwards it must not look either: a collection in a forked role would write into
    every object it inherits, and take a page of its own for each.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
