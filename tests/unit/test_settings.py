"""The site file: strict, and every problem named where it stands."""

from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict
from pydicom.datadict import dictionary_VR

from broker.errors import ConfigurationError
from broker.settings import parse_duration, read_environment
from broker.site_file import SiteFileError, load_site

ROOT = Path(__file__).parents[2]
BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 30))
"""Thirty lines that stand for a billion values."""


class FolderOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")
    path: str


def options_of(kind):
    return FolderOptions if kind in {"folder", "mllp"} else None


def known_keyword(keyword):
    try:
        return dictionary_VR(keyword)
    except (KeyError, ValueError):
        return None


@pytest.fixture
def load(tmp_path):
    def read(body, environ=None):
        path = tmp_path / "broker.yaml"
        path.write_text(body)
        return load_site(path, environ=environ or {}, options_of=options_of, known_keyword=known_keyword)

    return read


def problems(load, body, environ=None):
    with pytest.raises(SiteFileError) as caught:
        load(body, environ)
    return [str(problem).rpartition("broker.yaml:")[2].lstrip() for problem in caught.value.problems]


def test_the_annotated_site_file_is_good():
    loaded = load_site(
        ROOT / "config/broker.yaml", environ={}, options_of=options_of, known_keyword=known_keyword
    )
    assert loaded.site.site.ae_title == "BROKER"
    assert [route.name for route in loaded.routes.routes] == ["everything-to-copies"]


def test_an_empty_file_listens_on_loopback_with_the_documented_ports(load):
    listen = load("").site.listen
    assert (listen.hl7.host, listen.hl7.port) == ("127.0.0.1", 2575)
    assert (listen.dicom.host, listen.dicom.port) == ("127.0.0.1", 11112)
    assert (listen.web.host, listen.web.port) == ("127.0.0.1", 8080)
    assert listen.dicom.accept_unknown_devices == "loopback"


def test_every_problem_is_named_at_its_place(load):
    assert problems(
        load,
        "site: { timezone: Europe/Nowhere }\n"
        "listen:\n"
        '  dicom: { port: "11112", prot: 5 }\n'
        "routes:\n"
        "  - name: r1\n"
        "    when: { Modalty: CT }\n"
        "    send: [a]\n",
    ) == [
        "1:9: site.timezone: 'Europe/Nowhere' is not a time zone such as Europe/Berlin",
        "3:12: listen.dicom.port: Input should be a valid integer",
        "3:27: listen.dicom.prot: is not a known key",
        "6:13: routes.0.when.Modalty: 'Modalty' is not a DICOM keyword",
    ]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("a: 1\na: 2\n", "2:1: "),
        ("- 1\n", "1:1: must be a mapping"),
        ("site: [\n", "2:1: "),
        (
            "destinations: { a: { kind: fax } }\n",
            "1:22: destinations.a.kind: 'fax' is not a kind of destination",
        ),
        ("destinations: { a: { kind: folder } }\n", "1:17: destinations.a.path: Field required"),
        ("feedback: { destination: ris }\n", "1:13: feedback.destination: 'ris' is not a destination"),
        ("routes: [{ name: r, send: [x] }]\n", "1:28: routes.0.send.0: 'x' is not a destination"),
        ("listen: { web: { host: 0.0.0.0 } }\n", "1:11: listen.web: beyond loopback passwords need TLS"),
        ("devices: [{ ae_title: A_TITLE_THAT_IS_TOO_LONG }]\n", "1:13: devices.0.ae_title: "),
        ("completion: { cap: soon }\n", "1:15: completion.cap: 'soon' is not a duration"),
        ("site: { character_set: KLINGON }\n", "1:9: site.character_set: 'KLINGON' is not a value of"),
        ("deidentify: {}\n", "1:1: deidentify: is not a known key"),
        ("site: &a { name: *a }\n", "1:7: is nested too deeply"),
        ("site: " + "[" * 2000, "is nested too deeply"),
        ("? " * 100, "1:3: a key must be a plain word"),
        (BOMB, "stands for more than 100,000 values"),
        ("site:\n" + "  # x\n" * 200_000, "is longer than 1,048,576 characters"),
        ("site: { name: \x00 }\n", "unacceptable character #x0000"),
    ],
)
def test_each_kind_of_problem_says_what_is_wrong(load, body, problem):
    assert problems(load, body)[0].startswith(problem)


def test_a_two_times_listed_device_is_refused(load):
    assert "listed twice" in problems(load, "devices: [{ ae_title: CT1 }, { ae_title: CT1 }]\n")[0]


def test_the_environment_overrides_any_key(load):
    loaded = load("listen: { dicom: { port: 1 } }", {"BROKER_LISTEN__DICOM__PORT": "104"})
    assert loaded.site.listen.dicom.port == 104


def test_a_wrong_variable_is_named(load):
    with pytest.raises(SiteFileError) as caught:
        load("", {"BROKER_LISTEN__DICOM__PORT": "many"})
    assert str(caught.value).startswith("environment BROKER_LISTEN__DICOM__PORT: listen.dicom.port: ")


@pytest.mark.parametrize(
    "said", ["tls: { certificate: a.pem, key: b.pem }", "behind_proxy: { trusted: 10.0.0.2 }"]
)
def test_the_pages_go_beyond_loopback_only_with_tls_or_behind_a_proxy(load, said):
    assert load(f"listen: {{ web: {{ host: 0.0.0.0, {said} }} }}").site.listen.web.host == "0.0.0.0"


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (
            "tls: { certificate: a.pem, key: b.pem }, behind_proxy: { trusted: 10.0.0.2 }",
            "`tls` or `behind_proxy`, not both",
        ),
        ("behind_proxy: { trusted: [] }", "at least 1 item"),
        ("behind_proxy: { trusted: the-proxy }", "is not an address"),
        ("unauthenticated: true", "is not a known key"),
    ],
)
def test_what_is_said_of_the_way_to_the_pages_is_checked(load, said, problem):
    assert problem in " ".join(problems(load, f"listen: {{ web: {{ host: 0.0.0.0, {said} }} }}\n"))


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("30s", timedelta(seconds=30)),
        ("1h30m", timedelta(minutes=90)),
        ("250ms", timedelta(milliseconds=250)),
        ("1d", timedelta(days=1)),
        ("1.5h", timedelta(minutes=90)),
    ],
)
def test_durations_are_read(text, span):
    assert parse_duration(text) == span


@pytest.mark.parametrize("text", ["", "30", "s", "5 parsecs", "-3s", "1h2"])
def test_other_durations_are_refused(text):
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


def test_secrets_come_from_files_and_are_never_shown(tmp_path):
    secret = tmp_path / "database_url"
    secret.write_text("postgresql://broker:hush@db/broker\n")
    environment = read_environment({"BROKER_DATABASE_URL_FILE": str(secret)})
    assert environment.database_url == "postgresql://broker:hush@db/broker"
    assert "hush" not in repr(environment)


@pytest.mark.parametrize(
    ("text", "key", "said"),
    [
        ("completion: { series_quiet: 99999999999999d }", "completion.series_quiet", "is longer than"),
        ("limits: { dicom: { pdu_timeout: 0s } }", "limits.dicom.pdu_timeout", "longer than 0s"),
        ("limits: { hl7: { frame_timeout: 0s } }", "limits.hl7.frame_timeout", "longer than 0s"),
        (
            "destinations: { a: { kind: folder, path: a, retry: { first: 0s } } }",
            "retry.first",
            "longer than 0s",
        ),
        (
            "listen: { hl7: { allow: [10.1.0.0/16, garbage] } }",
            "listen.hl7.allow",
            "'garbage' is not an address",
        ),
        ("listen: { hl7: { port: 11112 } }", "listen", "hl7 and dicom cannot share port 11112"),
    ],
)
def test_what_would_stop_a_listener_is_found_before_it_starts(tmp_path, text, key, said):
    path = tmp_path / "broker.yaml"
    path.write_text(text)
    with pytest.raises(SiteFileError) as caught:
        load_site(path, environ={}, options_of=options_of, known_keyword=known_keyword)
    (problem,) = caught.value.problems
    assert key in problem.key
    assert said in problem.text
    assert problem.line == 1


def test_a_secret_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match="BROKER_DATABASE_URL_FILE: cannot read"):
        read_environment({"BROKER_DATABASE_URL_FILE": str(tmp_path / "nothing")})
