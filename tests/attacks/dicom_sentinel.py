"""`python -m tests.attacks.dicom_sentinel HOST PORT [tls]`: asks C-ECHO again and again, and says how long it took.

One line for each echo: seconds, or `-` when it was not answered within PATIENCE_S. Each on an association of its
own, in a process of its own: an attacker that is busy must not be mistaken for a listener that is.
"""

import sys
import time

from tests.attacks.dicom_wire import ECHO, RELEASE, VERIFICATION, Caller, context, echo_request
from tests.attacks.dicom_wire import IMPLICIT as IMPLICIT_VR

PATIENCE_S = 6.0
PAUSE_S = 0.1
RETRY_S = 0.02


def echo(host: str, port: int, *, tls: bool) -> float:
    """Answer how long one C-ECHO took, association included; a transient rejection is tried again at once."""
    began_s = time.monotonic()
    while True:
        left = began_s + PATIENCE_S - time.monotonic()
        if left <= 0:
            raise TimeoutError
        try:
            with Caller(host, port, tls=tls, timeout_s=left) as caller:
                caller.associate(contexts=context(ECHO, VERIFICATION, IMPLICIT_VR), calling=b"SENTINEL")
                caller.send(echo_request())
                if caller.status(left) != 0:
                    raise ConnectionError
                took_s = time.monotonic() - began_s
                caller.send(RELEASE)
                caller.ending(1.0)
                return took_s
        except TimeoutError:
            raise
        except OSError:
            time.sleep(RETRY_S)


def main(host: str, port: str, kind: str = "plain") -> None:
    while True:
        try:
            print(f"{echo(host, int(port), tls=kind == 'tls'):.4f}", flush=True)
        except TimeoutError:
            print("-", flush=True)
        time.sleep(PAUSE_S)


main(*sys.argv[1:]) if __name__ == "__main__" else None
