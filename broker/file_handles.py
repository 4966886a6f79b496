"""Take as many file handles as this process may have: a connection is one, and so is a file under way.

Systems start a service with 1,024 of them and let it take more (getrlimit(2)). Without them a listener stops
accepting long before the limits of the site file are reached.
"""

from __future__ import annotations

import resource
from typing import Final

import structlog

from broker.settings import Limits

log = structlog.get_logger()

ENOUGH: Final = 65_536
"""More would only make those slow who close every handle there could be."""
OF_A_PROCESS: Final = 256
"""Database, logs, ready files, wake-ups, libraries; and what a role without listed limits opens."""


def handles_needed(role: str, limits: Limits) -> int:
    """Answer how many handles a role has open when every limit of the site file is reached."""
    if role == "hl7":
        return OF_A_PROCESS + limits.hl7.max_connections
    if role in {"dicom", "storage"}:
        # An association is a connection, and a file while an object comes.
        return OF_A_PROCESS + 2 * limits.dicom.max_associations + limits.dicom.max_unassociated
    return OF_A_PROCESS


def take_handles(role: str, limits: Limits) -> int:
    """Raise the soft limit as far as it goes and is of use; answer it. Says so where the limits need more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = handles_needed(role, limits)
    wanted = max(ENOUGH, needed)
    within = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < within:
        resource.setrlimit(resource.RLIMIT_NOFILE, (within, hard))
        log.info("file handles raised", before=soft, handles=within)
        soft = within
    if soft != resource.RLIM_INFINITY and soft < needed:
        log.warning(
            "fewer file handles than the limits of the site file need: connections will be refused before them",
            handles=soft,
            needed=needed,
            remedy="raise the hard limit (LimitNOFILE=, ulimit -Hn) or lower limits.dicom.max_associations "
            "and limits.hl7.max_connections",
        )
    return soft
