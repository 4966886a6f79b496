"""The channels of alerts, each with a real receiver."""

import hashlib
import hmac
import json
import socket
import socketserver
import ssl
import subprocess
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from broker.certificates import ends_of
from broker.domain.alerts import Notice
from broker.notices import webhook
from broker.notices.email import Email
from broker.notices.syslog import Syslog
from broker.notices.webhook import SIGNATURE, Webhook, is_forbidden
from broker.settings import EmailChannel, SyslogTarget, WebhookChannel
from broker.workflow.alerts_port import ChannelFailed, Message, Told
from tests.broker_process import wait_until
from tests.builders import NOW
from tests.ports import free_port
from tests.webhook_receiver import a_hook, serving

LINE = Told(
    Notice.RAISED,
    "failing",
    'arch"ive]\n',
    "critical",
    "archive is failing:\r\nBcc: everybody@example.org",
    "Check that the peer runs.",
    "https://broker.example/destinations/archive",
    NOW,
)
OVER = Told(Notice.RECOVERED, "dead", "film", "warning", "film has dead deliveries", "Read.", "/x", NOW)
MESSAGE = Message("m-1", "Hospital Ü", NOW, [LINE, OVER])


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"],
        check=True, capture_output=True, cwd=folder,
    )  # fmt: skip
    return folder


def server_side(folder):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


# ---- webhook -------------------------------------------------------------------------------------------


def test_a_webhook_is_posted_signed_and_holds_everything():
    with a_hook() as hook:
        settings = WebhookChannel(url=f"http://127.0.0.1:{hook.server_port}/alerts?to=pager")
        Webhook(settings, secret="s3cret").send(MESSAGE)
    ((path, headers, body),) = hook.seen
    assert path == "/alerts?to=pager"
    at, _, digest = headers[SIGNATURE].partition(",")
    seconds = at.removeprefix("t=")
    expected = hmac.new(b"s3cret", f"{seconds}.".encode() + body, hashlib.sha256).hexdigest()
    assert digest == f"v1={expected}"
    assert int(seconds) == int(NOW.timestamp())
    said = json.loads(body)
    assert (said["id"], said["site"]) == ("m-1", "Hospital Ü")
    assert [one["notice"] for one in said["alerts"]] == ["raised", "recovered"]
    assert said["alerts"][0]["link"] == LINE.link


def test_a_webhook_speaks_tls_to_the_name_it_was_given(certificate):
    with a_hook(tls=server_side(certificate)) as hook:
        url = f"https://localhost:{hook.server_port}/"
        Webhook(WebhookChannel(url=url, ca=certificate / "cert.pem"), secret=None).send(MESSAGE)
        with pytest.raises(ChannelFailed, match="SSLCertVerificationError"):
            Webhook(WebhookChannel(url=url), secret=None).send(MESSAGE)
    assert len(hook.seen) == 1
    assert SIGNATURE not in hook.seen[0][1]


@pytest.mark.parametrize("status", [302, 307, 400, 500])
def test_what_is_not_taken_is_said_and_no_redirect_is_followed(status):
    with a_hook(status) as hook, pytest.raises(ChannelFailed, match=f"answers {status}"):
        Webhook(WebhookChannel(url=f"http://127.0.0.1:{hook.server_port}/"), secret=None).send(MESSAGE)
    assert len(hook.seen) == 1


@pytest.mark.parametrize(
    ("address", "forbidden"),
    [
        ("169.254.169.254", True),
        ("fe80::1%eth0", True),
        ("::ffff:169.254.169.254", True),
        ("2002:a9fe:a9fe::1", True),
        ("fd00:ec2::254", True),
        ("100.100.100.200", True),
        ("0.0.0.0", True),
        ("224.0.0.1", True),
        ("10.1.2.3", False),
        ("127.0.0.1", False),
        ("fd12::1", False),
        ("192.0.2.1", False),
    ],
)
def test_addresses_no_webhook_can_rightly_be_at_are_not_called(address, forbidden):
    assert is_forbidden(address) is forbidden


def test_a_name_is_resolved_once_and_every_address_of_it_counts(monkeypatch):
    asked = []

    def getaddrinfo(host, port, **more):
        asked.append(host)
        return [(2, 1, 6, "", ("127.0.0.1", port)), (2, 1, 6, "", ("169.254.169.254", port))]

    monkeypatch.setattr(webhook.socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(ChannelFailed, match="which is not called"):
        Webhook(WebhookChannel(url="http://hook.example/"), secret=None).send(MESSAGE)
    assert asked == ["hook.example"]


def test_nobody_there_is_said():
    with pytest.raises(ChannelFailed, match="ConnectionRefusedError"):
        Webhook(WebhookChannel(url=f"http://127.0.0.1:{free_port()}/"), secret=None).send(MESSAGE)


@pytest.mark.parametrize("url", ["ftp://x/", "https://", "https://u:p@x/", "x"])
def test_an_address_that_is_none_is_refused_in_the_site_file(url):
    with pytest.raises(ValueError, match="url"):
        WebhookChannel(url=url)


# ---- e-mail --------------------------------------------------------------------------------------------


class Smtp(socketserver.StreamRequestHandler):
    """As much of RFC 5321 as a client needs, with STARTTLS and AUTH PLAIN."""

    def handle(self):
        self.say("220 mail ready")
        while line := self.rfile.readline():
            text = line.decode().strip()
            verb = text.upper().split(" ")[0]
            self.server.heard.append(text)
            if verb == "EHLO":
                offered = ["mail", "AUTH PLAIN"] + (["STARTTLS"] if self.server.context else [])
                for one in offered[:-1]:
                    self.say(f"250-{one}")
                self.say(f"250 {offered[-1]}")
            elif verb == "STARTTLS":
                self.say("220 go")
                self.connection = self.server.context.wrap_socket(self.connection, server_side=True)
                self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb")
            elif verb == "DATA":
                self.say("354 go")
                lines = []
                while (line := self.rfile.readline()) != b".\r\n":
                    lines.append(line)
                self.server.mails.append(b"".join(lines))
                self.say("250 kept")
            elif verb == "RCPT" and "nobody@" in text:
                self.say("550 HAYDN^JOSEPH is not here")
            elif verb == "AUTH":
                self.say("235 welcome")
            elif verb == "QUIT":
                self.say("221 bye")
                return
            else:
                self.say("250 fine")

    def say(self, text):
        self.wfile.write(text.encode() + b"\r\n")
        self.wfile.flush()


@contextmanager
def a_mail_server(folder=None):
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Smtp)
    server.heard, server.mails, server.context = [], [], server_side(folder) if folder else None
    with serving(server):
        yield server


def mail_settings(server, **changes):
    return EmailChannel(
        **{
            "host": "localhost",
            "port": server.server_address[1],
            "from": "broker@example.org",
            "to": ["oncall@example.org"],
            **changes,
        }
    )


def test_a_mail_is_sent_by_tls_with_a_password_and_one_subject_line(certificate):
    from email import message_from_bytes
    from email.policy import default

    with a_mail_server(certificate) as server:
        settings = mail_settings(server, ca=certificate / "cert.pem", user="broker")
        Email(settings, password="pa55").send(MESSAGE)
    mail = message_from_bytes(server.mails[0], policy=default)
    assert mail["subject"].startswith("[Hospital Ü] archive is failing:")
    assert "(and 1 more line)" in mail["subject"]
    assert mail["bcc"] is None
    assert mail["auto-submitted"] == "auto-generated"
    text = mail.get_content()
    assert LINE.link in text
    assert "over: film has dead deliveries".lower() in text.lower()
    assert [one.split(" ")[0] for one in server.heard[:4]] == ["ehlo", "STARTTLS", "ehlo", "AUTH"]


def test_a_mail_is_not_sent_in_the_clear_unless_the_site_says_so():
    with a_mail_server() as server:
        with pytest.raises(ChannelFailed, match="SMTPNotSupportedError"):
            Email(mail_settings(server), password="pa55").send(MESSAGE)
        assert server.mails == []
        Email(mail_settings(server, starttls=False), password=None).send(MESSAGE)
        assert len(server.mails) == 1


def test_what_a_mail_server_says_is_not_repeated():
    with a_mail_server() as server:
        settings = mail_settings(server, starttls=False, to=["nobody@example.org"])
        with pytest.raises(ChannelFailed) as failed:
            Email(settings, password=None).send(MESSAGE)
    assert "HAYDN" not in str(failed.value)


# ---- syslog --------------------------------------------------------------------------------------------


class Collector(socketserver.StreamRequestHandler):
    """Reads frames with counted octets (RFC 5425 4.3)."""

    def handle(self):
        self.server.connections.append(self.connection)
        while True:
            count = b""
            while (char := self.rfile.read(1)) not in {b" ", b""}:
                count += char
            if not char:
                return
            self.server.entries.append(self.rfile.read(int(count)))


@contextmanager
def a_collector(folder=None, port=0):
    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

        def get_request(self):
            connection, address = super().get_request()
            if folder:
                connection = server_side(folder).wrap_socket(connection, server_side=True)
            return connection, address

    server = Server(("127.0.0.1", port), Collector)
    server.entries, server.connections = [], []
    with serving(server):
        yield server


@pytest.mark.parametrize("protocol", ["tcp", "tls"])
def test_a_collector_gets_every_alert_as_a_frame(certificate, protocol):
    with a_collector(certificate if protocol == "tls" else None) as collector:
        target = SyslogTarget(
            host="localhost", port=collector.server_address[1], protocol=protocol, ca=certificate / "cert.pem"
        )
        channel = Syslog(target)
        channel.send(MESSAGE)
        channel.send(MESSAGE)
        wait_until(lambda: len(collector.entries) == 4, what="four entries")
        assert len(collector.connections) == 1
    head, _, text = collector.entries[0].partition(b"\xef\xbb\xbf")
    assert head.startswith(b"<26>1 2026-11-21T08:00:00.000Z ")
    assert b" worklist-broker " in head
    assert rb'about="arch\"ive\]' in head
    assert text.decode() == "raised: archive is failing:··Bcc: everybody@example.org"
    assert collector.entries[1].startswith(b"<30>1 ")


def test_a_collector_that_was_restarted_is_connected_anew():
    port = free_port()  # named by the kernel, it could be named again before the second collector listens
    with a_collector(port=port) as collector:
        channel = Syslog(SyslogTarget(host="127.0.0.1", port=port, protocol="tcp"))
        channel.send(MESSAGE)
        wait_until(lambda: len(collector.entries) == 2)
        for connection in collector.connections:
            connection.shutdown(socket.SHUT_RDWR)
    with pytest.raises(ChannelFailed):
        channel.send(MESSAGE)
    with a_collector(port=port) as collector:
        channel.send(MESSAGE)
        wait_until(lambda: len(collector.entries) == 2)


def test_a_datagram_is_one_entry():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(20)
        target = SyslogTarget(host="127.0.0.1", port=receiver.getsockname()[1], protocol="udp")
        Syslog(target).send(MESSAGE)
        first = receiver.recv(65_535)
    assert first.startswith(b"<26>1 ")


# ---- certificates --------------------------------------------------------------------------------------


def test_the_end_of_a_certificate_is_read(certificate):
    pem = (certificate / "cert.pem").read_text()
    left = ends_of(pem) - datetime.now(UTC)
    assert timedelta(days=1) < left <= timedelta(days=2)
    assert ends_of(f"some text\n{pem}\n{pem}") == ends_of(pem)


@pytest.mark.parametrize("days", [2, 9000, 20000])  # from 2050 on the time is written in another form
def test_it_is_what_openssl_says(tmp_path, days):
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", str(days),
         "-subj", "/CN=x", "-keyout", "key.pem", "-out", "cert.pem"],
        check=True, capture_output=True, cwd=tmp_path,
    )  # fmt: skip
    said = subprocess.run(
        ["openssl", "x509", "-enddate", "-noout", "-in", "cert.pem"],
        check=True,
        capture_output=True,
        cwd=tmp_path,
        text=True,
    ).stdout
    expected = datetime.strptime(said.strip(), "notAfter=%b %d %H:%M:%S %Y %Z").replace(tzinfo=UTC)
    assert ends_of((tmp_path / "cert.pem").read_text()) == expected


@pytest.mark.parametrize(
    "pem",
    ["", "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----", "-----BEGIN CERTIFICATE-----\nMIID\n-----END CERTIFICATE-----"],
)  # fmt: skip
def test_what_is_no_certificate_is_said(pem):
    with pytest.raises(ValueError, match="certificate"):
        ends_of(pem)
