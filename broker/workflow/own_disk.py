"""Tell trouble of this machine from trouble of one object when a stored file cannot be read.

No handle left, no memory, a disk that fails, a share that went away: the object is as good as it was, so its
delivery waits. A file that is not there, or is no data set, is the object's own trouble and stays so for ever.
"""

from __future__ import annotations

import errno
import os
from typing import Final

from broker.domain.delivery import RetryLater

_OF_THE_MACHINE: Final = frozenset(
    {
        errno.EIO,
        errno.EREMOTEIO,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOBUFS,
        errno.EAGAIN,
        errno.EINTR,
        errno.EBUSY,
        errno.ENOSPC,
        # Somebody may give the rights back, or the share.
        errno.EACCES,
        errno.EPERM,
        errno.ESTALE,
        errno.ETIMEDOUT,
        errno.ENXIO,
        errno.ENODEV,
        errno.ENOLINK,
        errno.ENOTCONN,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
    }
)


def is_of_the_machine(error: OSError) -> bool:
    """Answer whether the file itself may be as good as ever. What decoders raise by that name has no number."""
    return error.errno in _OF_THE_MACHINE


def word_of(error: OSError) -> str:
    """Answer the system's word for an error, without the path, which may hold UIDs of a patient's study."""
    return os.strerror(error.errno) if error.errno else "input/output error"


def wait_for_the_machine(error: OSError) -> RetryLater:
    """Answer what becomes of a delivery that could not read what it is to send."""
    return RetryLater(f"the stored file cannot be read just now ({word_of(error)})", ours=True)
