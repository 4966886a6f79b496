"""The `dicom` destination against DCMTK and Orthanc, in the clear and over TLS."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from contextlib import contextmanager

import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEG2000Lossless, RLELossless

from broker.domain.delivery import Delivered, Misconfigured, RetryLater
from tests.integration.store_destination.archive import compressed, uids, wait_for
from tests.parcels import Ledger, a_parcel, an_item
from tests.ports import free_port

needs_dcmtk = pytest.mark.skipif(shutil.which("storescp") is None, reason="DCMTK is not installed")


# ---- TLS -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    for name in ("peer", "other"):
        subprocess.run(
            f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost "
            f"-addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout {name}.key -out {name}.pem".split(),
            cwd=folder,
            check=True,
            capture_output=True,
        )
    return folder


@contextmanager
def storescp(tmp_path, *arguments, stop_signal=signal.SIGTERM):
    folder = tmp_path / "received"
    folder.mkdir(exist_ok=True)
    port = free_port()
    process = subprocess.Popen(
        ["storescp", *map(str, arguments), "-od", folder, "-aet", "PACS", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:

        def listens():
            assert process.poll() is None, "storescp ended"
            with socket.socket() as sock:
                return sock.connect_ex(("127.0.0.1", port)) == 0

        wait_for(listens)
        yield port, folder
    finally:
        process.send_signal(stop_signal)
        process.wait(10)


@pytest.mark.peer
@needs_dcmtk
def test_tls_with_a_trusted_peer_delivers_and_with_another_is_a_matter_of_settings(
    certificates, destination_to, items, tmp_path
):
    tls_arguments = ["+tls", certificates / "peer.key", certificates / "peer.pem", "-ic"]
    ours = {"certificate": certificates / "peer.pem", "key": certificates / "peer.key"}
    with storescp(tmp_path, *tls_arguments) as (port, folder):
        trusting = destination_to(port, tls={**ours, "trusted": certificates / "peer.pem"})
        outcome = trusting.send(a_parcel(items(2)), Ledger())
        assert isinstance(outcome, Delivered), outcome
        trusting.close()
        assert len(list(folder.iterdir())) == 2
        ledger = Ledger()
        outcome = destination_to(port, tls={**ours, "trusted": certificates / "other.pem"}).send(
            a_parcel(items(1)), ledger
        )
        assert isinstance(outcome, Misconfigured)
        assert ledger.results == []


def test_tls_files_that_do_not_exist_are_a_matter_of_settings(scp, destination_to, items):
    destination = destination_to(scp().port, tls={"trusted": "no-such-file.pem"})
    assert isinstance(destination.send(a_parcel(items(1)), Ledger()), Misconfigured)


# ---- DCMTK and Orthanc ---------------------------------------------------------------------------------


@pytest.mark.peer
@needs_dcmtk
def test_storescp_receives_what_was_sent(destination_to, items, tmp_path):
    parcel = items(20)
    ledger = Ledger()
    with storescp(tmp_path, "+xa") as (port, folder):
        destination = destination_to(port)
        assert isinstance(destination.send(a_parcel(parcel), ledger), Delivered)
        destination.close()
        arrived = {pydicom.dcmread(path).SOPInstanceUID for path in folder.iterdir()}
    assert arrived == set(uids(parcel))
    assert ledger.delivered == list(range(1, 21))


@pytest.mark.peer
@needs_dcmtk
@pytest.mark.parametrize("behaviour", [["--refuse"], ["--abort-after"], ["--abort-during"]])
def test_a_storescp_that_refuses_or_aborts_is_tried_again_later(destination_to, items, tmp_path, behaviour):
    with storescp(tmp_path, *behaviour) as (port, _):
        ledger = Ledger()
        outcome = destination_to(port).send(a_parcel(items(5, rows=256, columns=256)), ledger)
    assert isinstance(outcome, RetryLater), outcome
    assert ledger.results == []


@pytest.mark.peer
@needs_dcmtk
def test_a_storescp_that_sleeps_too_long_is_given_up(destination_to, items, tmp_path):
    with storescp(tmp_path, "--sleep-after", 30, stop_signal=signal.SIGKILL) as (port, _):
        ledger = Ledger()
        began = time.monotonic()
        outcome = destination_to(port, timeouts={"response_s": 3}).send(a_parcel(items(2)), ledger)
    assert isinstance(outcome, RetryLater)
    assert ledger.delivered == [1]  # it answers, then sleeps
    assert time.monotonic() - began < 29


@pytest.mark.peer
@needs_dcmtk
def test_a_storescp_that_sleeps_in_the_middle_still_gets_everything(destination_to, items, tmp_path):
    with storescp(tmp_path, "--sleep-during", 1) as (port, folder):
        destination = destination_to(port)
        ledger = Ledger()
        assert isinstance(destination.send(a_parcel(items(2)), ledger), Delivered)
        destination.close()
        assert len(list(folder.iterdir())) == 2
    assert ledger.delivered == [1, 2]


@pytest.mark.peer
@needs_dcmtk
@pytest.mark.parametrize("syntax", [JPEG2000Lossless, RLELossless])
def test_a_storescp_that_takes_no_compression_gets_plain_pixels(destination_to, tmp_path, syntax):
    ds = compressed(syntax)
    pixels = ds.pixel_array.copy()
    with storescp(tmp_path) as (port, folder):
        destination = destination_to(port)
        assert isinstance(destination.send(a_parcel([an_item(ds, tmp_path / "store")]), Ledger()), Delivered)
        destination.close()
        arrived = pydicom.dcmread(next(folder.iterdir()))
    assert np.array_equal(arrived.pixel_array, pixels)


@pytest.mark.peer
@pytest.mark.skipif(shutil.which("Orthanc") is None, reason="Orthanc is not installed")
def test_orthanc_archives_what_was_sent_and_takes_it_twice(destination_to, items, tmp_path):
    dicom_port, http_port = free_port(), free_port()
    configuration = tmp_path / "orthanc.json"
    configuration.write_text(
        f'{{"StorageDirectory": "{tmp_path}/orthanc", "IndexDirectory": "{tmp_path}/orthanc", "DicomAet": "PACS",'
        f' "DicomPort": {dicom_port}, "HttpPort": {http_port}, "RemoteAccessAllowed": false,'
        ' "DicomAlwaysAllowStore": true, "Plugins": []}'
    )
    process = subprocess.Popen(
        ["Orthanc", configuration], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        destination = destination_to(dicom_port)
        wait_for(lambda: destination.check().ok, timeout_s=30)
        parcel = items(10)
        for attempt in (1, 2):
            ledger = Ledger()
            outcome = destination.send(a_parcel(parcel, attempt=attempt), ledger)
            assert isinstance(outcome, Delivered), outcome
            assert len(ledger.delivered) == 10
        destination.close()
    finally:
        process.terminate()
        process.wait(20)
