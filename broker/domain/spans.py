"""Spans of time in words, the same on every page, in every alarm and on the command line."""

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
