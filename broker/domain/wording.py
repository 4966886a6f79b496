"""Spans and numbers in words, the same on every page, in every alarm and on the command line."""

from __future__ import annotations

from datetime import timedelta


def words(span: timedelta) -> str:
    """Say a span in its two largest units."""
    seconds = int(span.total_seconds())
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min"
    if seconds < 86400:
        return f"{seconds // 3600} h {seconds % 3600 // 60} min"
    return f"{seconds // 86400} d {seconds % 86400 // 3600} h"


def counted(number: int, what: str) -> str:
    """Say a number with its noun: `1 image`, `2,000 images`, `3 deliveries`."""
    several = f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
    return f"{number:,} {what if number == 1 else several}"


def sized(number: int) -> str:
    """Say a number of bytes as disks are sold: `512 kB`, `4.2 GB`."""
    value = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.1f} {unit}" if value < 10 and unit != "B" else f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} TB" if value < 10 else f"{value:,.0f} TB"
