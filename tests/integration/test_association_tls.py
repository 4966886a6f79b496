"""Associations over TLS: who is known, who is refused, and certificates that change."""

import os
import shutil
import ssl
import time
from io import BytesIO

import pytest

from broker.dicom.network.failures import AssociationAborted, AssociationLost, ConnectFailed, Phase
from broker.dicom.network.limits import ServerLimits
from broker.dicom.network.service import CloseReason
from broker.dicom.network.tls import ClientTls, ServerTls, TlsFiles, TlsProfile
from tests.dicom_conversation import CT_IMAGE, EXPLICIT, Shelf, storage_offer
from tests.integration.association_listener import CT, ECHO, connected, files, knocking, listening, wait_until


@pytest.mark.parametrize("profile", TlsProfile)
def test_an_association_over_tls_knows_its_peer(certificates, profile):
    shelf = Shelf()
    image = os.urandom(700_000)
    server_tls = ServerTls(files(certificates, "broker"), profile=profile)
    client_tls = ClientTls(files(certificates, "ct1"), profile=profile)
    with listening(storage_offer(shelf), tls=server_tls) as server:
        with connected(server, [*ECHO, *CT], tls=client_tls) as association:
            assert association.echo() == 0
            reply = association.store(
                sop_class_uid=CT_IMAGE, sop_instance_uid="1.2", context=EXPLICIT, payload=BytesIO(image)
            )
            assert reply.status == 0
        wait_until(lambda: server.diary.reasons == [CloseReason.RELEASED])
        assert server.diary.opened_peers[0].tls_subject == "CN=CT1,O=Radiology"
    assert shelf.images == {"1.2": image}


def test_a_silent_connection_to_the_tls_port_keeps_nobody_waiting(certificates):
    # W1
    limits = ServerLimits(first_pdu_s=60.0)
    with listening(tls=ServerTls(files(certificates, "broker")), limits=limits) as server:
        silent = [knocking(server) for _ in range(5)]
        started = time.monotonic()
        with connected(server, tls=ClientTls(files(certificates, "ct1"))) as association:
            assert association.echo() == 0
        assert time.monotonic() - started < 30
        for sock in silent:
            sock.close()


def test_silent_connections_to_the_tls_port_are_displaced(certificates):
    limits = ServerLimits(unassociated=3, displace_after_s=0.0, first_pdu_s=30.0)
    with listening(tls=ServerTls(files(certificates, "broker")), limits=limits) as server:
        silent = [knocking(server) for _ in range(12)]
        with connected(server, tls=ClientTls(files(certificates, "ct1"))) as association:
            assert association.echo() == 0
        wait_until(lambda: len(server._connections) <= 3)
        for sock in silent:
            sock.close()


def test_a_stopping_tls_listener_aborts_idle_associations(certificates):
    with listening(tls=ServerTls(files(certificates, "broker"))) as server:
        association = connected(server, tls=ClientTls(files(certificates, "ct1")))
        wait_until(lambda: any(connection.idle for connection in tuple(server._connections)))
        server.stop(grace_s=30.0)
        with pytest.raises(AssociationAborted) as aborted:
            association.echo()
        assert (aborted.value.source, aborted.value.reason) == (0, 0)
        assert server.diary.reasons == [CloseReason.STOPPED]


def test_without_a_certificate_or_without_tls_nobody_gets_in(certificates):
    with listening(tls=ServerTls(files(certificates, "broker"))) as server:
        nameless = ClientTls(TlsFiles(trusted=certificates / "ca.pem"))
        with pytest.raises((ConnectFailed, AssociationLost)):
            connected(server, tls=nameless)
        with pytest.raises((AssociationLost, AssociationAborted)):
            connected(server)
        wait_until(lambda: len(server.diary.knocks) == 2)
        assert server.diary.opened_peers == []


def test_a_server_we_do_not_trust_is_a_matter_of_configuration(certificates):
    with listening(tls=ServerTls(files(certificates, "broker"))) as server:
        own = TlsFiles(
            certificate=certificates / "ct1.pem",
            key=certificates / "ct1.key",
            trusted=certificates / "ct1.pem",
        )
        with pytest.raises(ConnectFailed) as refused:
            connected(server, tls=ClientTls(own))
    assert refused.value.phase is Phase.TLS
    assert refused.value.is_configuration


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_tls_below_1_2_is_refused(certificates):
    with listening(tls=ServerTls(files(certificates, "broker"))) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
        with knocking(server) as sock, pytest.raises(ssl.SSLError):
            context.wrap_socket(sock)


def test_new_certificates_are_taken_up_and_bad_ones_are_not(certificates, tmp_path):
    for name in ("broker.pem", "broker.key", "ca.pem"):
        shutil.copy(certificates / name, tmp_path / name)
    now = [0.0]
    tls = ServerTls(files(tmp_path, "broker"), monotonic=lambda: now[0])
    first = tls.context()
    now[0] += 10
    assert tls.context() is first
    (tmp_path / "broker.pem").write_text("nonsense")
    now[0] += 10
    assert tls.context() is first
    shutil.copy(certificates / "ct1.pem", tmp_path / "broker.pem")
    shutil.copy(certificates / "ct1.key", tmp_path / "broker.key")
    now[0] += 10
    assert tls.context() is not first
