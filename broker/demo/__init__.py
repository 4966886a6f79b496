"""A hospital day in a minute: simulated peers over real sockets, and a verdict that can fail."""

from __future__ import annotations


def run_demo(*, once: bool = False, keep: bool = False) -> int:
    """Play the day against a broker of its own; answers 0 when every journey passed."""
    from broker.demo.day import run

    return run(once=once, keep=keep)
