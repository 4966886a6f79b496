"""A listener on a real socket, and the ways to call it."""

import contextlib
import shutil
import socket
import subprocess
import threading
import time

import pytest

from broker.dicom.network.client import Proposal, open_association
from broker.dicom.network.negotiation import Offers
from broker.dicom.network.server import DicomServer
from broker.dicom.network.tls import TlsFiles
from broker.dicom.network.verification import verification_offer
from tests.dicom_conversation import CT_IMAGE, EXPLICIT, IMPLICIT, VERIFICATION, Diary

ECHO = [Proposal(VERIFICATION, (IMPLICIT,))]
CT = [Proposal(CT_IMAGE, (EXPLICIT,))]


def peer(program):
    """Mark a test that needs a program of DCMTK."""
    missing = pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is missing")
    return lambda test: pytest.mark.peer(missing(test))


@contextlib.contextmanager
def listening(*offers, otherwise=None, limits=None, **more):
    diary = Diary()
    server = DicomServer(
        "127.0.0.1",
        0,
        offers=Offers([verification_offer(), *offers], otherwise=otherwise),
        limits=limits,
        observer=diary,
        **({"ae_title": "BROKER"} | more),
    )
    server.start()
    server.diary = diary
    try:
        yield server
    finally:
        server.stop(grace_s=2.0)


def connected(server, contexts=None, **more):
    return open_association(
        "127.0.0.1",
        server.port,
        calling_ae_title=more.pop("calling", "CT1"),
        called_ae_title=more.pop("called", "BROKER"),
        contexts=contexts or ECHO,
        **more,
    )


def knocking(server):
    sock = socket.create_connection(("127.0.0.1", server.port))
    sock.settimeout(30)
    return sock


def everything(sock):
    """Read until the peer closes."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := sock.recv(65536):
            data += chunk
    return data


def wait_until(condition, *, within_s=30.0):
    deadline = time.monotonic() + within_s
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        pause.wait(0.005)


def run(*command, within_s=60):
    return subprocess.run(command, capture_output=True, text=True, timeout=within_s, check=False)


def calling(port, contexts, **more):
    return open_association(
        "127.0.0.1", port, calling_ae_title="BROKER", called_ae_title="PEER", contexts=contexts, **more
    )


def files(folder, name):
    return TlsFiles(certificate=folder / f"{name}.pem", key=folder / f"{name}.key", trusted=folder / "ca.pem")
