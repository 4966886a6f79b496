"""The key under which a person name is stored for matching."""

from __future__ import annotations

from broker.domain.values import fold_name

MAX_NAME_KEY_CHARACTERS = 400


def name_key(pn: str) -> str:
    """Answer a PN (`alphabetic=ideographic=phonetic`) as compared: each group folded, empty tail dropped.

    Cut at what its column holds: folding may lengthen a name, and a name that long is narrowed by its start.
    """
    return "=".join(fold_name(group) for group in pn.split("=")).rstrip("=")[:MAX_NAME_KEY_CHARACTERS]
