"""What docs/logs.md says of the lines our code may log."""

import re

from tests.architecture.log_calls import LEVELS, ROOT

LINKING = {
    *("association", "message", "delivery", "destination", "sop_instance_uid", "alert", "probe"),
    "capture",
    *("peer", "peers", "calling_ae_title"),
}
"""Keys that name what a line is about, as docs/logs.md explains them."""


def documented():
    """Answer {event: (levels, keys)} of the tables."""
    rows = re.findall(
        r"^\| (.+?) \| ([a-z, ]+) \| (.+?) \| .+ \|$", (ROOT / "docs/logs.md").read_text(), re.MULTILINE
    )
    return {
        event: (set(levels.split(", ")), set(re.findall(r"`(\w+)`", keys)))
        for event, levels, keys in rows
        if LEVELS & set(levels.split(", "))
    }
