"""What every destination promises, whatever it speaks; and how plug-ins are found."""

import socket
from types import SimpleNamespace

import pytest
from pydantic import BaseModel

from broker import destinations
from broker.destinations import DestinationRegistry
from broker.domain.delivery import Delivered, Misconfigured, MoreToSend, Rejected, RetryLater, Unknown
from broker.errors import ConfigurationError, LeaseLost
from broker.workflow.clock import SystemClock
from broker.workflow.destinations_port import CheckResult, DestinationContext, Parcel
from tests.fakes.destination import FakeDestination
from tests.parcels import Ledger, a_context, a_parcel, an_image, an_item

KINDS = ("dicom", "folder", "mllp", "print")
OUTCOMES = (Delivered, MoreToSend, RetryLater, Rejected, Misconfigured, Unknown)
MESSAGE = b"MSH|^~\\&|BROKER|HOSP|RIS|HOSP|20261121080000||ORM^O01|M1|P|2.3\rORC|SC\r"


@pytest.fixture
def registry():
    return DestinationRegistry.from_entry_points()


@pytest.fixture
def closed_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        yield listener.getsockname()[1]  # bound, but nobody listens


def options_for(kind, *, port, folder):
    return {
        "dicom": {"host": "127.0.0.1", "port": port, "called_ae_title": "PACS"},
        "print": {"host": "127.0.0.1", "port": port, "called_ae_title": "FILM"},
        "mllp": {"host": "127.0.0.1", "port": port},
        "folder": {"path": str(folder / "file" / "copies")},
    }[kind]


@pytest.fixture(params=KINDS)
def dead(request, registry, closed_port, tmp_path):
    """A destination of each kind whose other side is not there."""
    (tmp_path / "file").write_text("where a folder should be")
    context = a_context(tmp_path, "dead")
    built = registry.build(
        request.param, options_for(request.param, port=closed_port, folder=tmp_path), context
    )
    yield SimpleNamespace(kind=request.param, plugin=built, folder=tmp_path)
    built.close()


def parcel_for(kind, folder):
    if kind == "mllp":
        return Parcel(delivery=7, attempt=1, items=iter(()), payload=MESSAGE)
    return a_parcel([an_item(an_image(), folder, number) for number in (1, 2)])


def test_the_built_in_kinds_are_installed(registry):
    assert set(KINDS) <= set(registry.kinds())


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_has_options_that_refuse_unknown_keys_and_describe_themselves(registry, kind):
    options = registry.options_of(kind)
    assert issubclass(options, BaseModel)
    assert options.model_config["extra"] == "forbid"
    assert all(field.description for field in options.model_fields.values())


def test_building_connects_nothing(dead):
    assert dead.plugin is not None  # nobody listens there, and nothing was raised


def test_a_check_of_what_is_not_there_says_so_and_does_not_raise(dead):
    result = dead.plugin.check()
    assert isinstance(result, CheckResult)
    assert not result.ok
    assert result.detail


def test_sending_to_what_is_not_there_is_an_outcome_and_confirms_nothing(dead):
    ledger = Ledger()
    outcome = dead.plugin.send(parcel_for(dead.kind, dead.folder), ledger)
    assert isinstance(outcome, (RetryLater, Misconfigured))
    assert outcome.reason
    assert ledger.results == []


def test_what_is_not_there_is_known_not_to_have_happened(dead):
    """A refused connection is not "may have happened": a printer must not need a person for it."""
    outcome = dead.plugin.send(parcel_for(dead.kind, dead.folder), Ledger())
    assert not isinstance(outcome, Unknown)


def test_reasons_name_no_patient(dead):
    outcome = dead.plugin.send(parcel_for(dead.kind, dead.folder), Ledger())
    assert "ZZTEST" not in repr(outcome)
    assert "ZZ-1" not in repr(outcome)


def test_closing_twice_is_harmless(dead):
    dead.plugin.close()
    dead.plugin.close()


def test_a_lost_lease_stops_the_sending(registry, tmp_path):
    context = a_context(tmp_path, "copies")
    folder = registry.build("folder", {"path": "copies", "keep_free_mib": 0}, context)
    items = [an_item(an_image(), tmp_path, number) for number in range(1, 60)]
    ledger = Ledger(lose_after=1)
    with pytest.raises(LeaseLost):
        folder.send(a_parcel(items), ledger)
    assert 0 < len(ledger.delivered) < len(items)


# ---- the registry


def context():
    return DestinationContext(name="somewhere", ae_title="BROKER", data_dir=None, clock=SystemClock())


def test_only_what_is_used_is_loaded():
    loaded = []

    def load(name):
        loaded.append(name)
        return FakeDestination

    registry = DestinationRegistry({"a": lambda: load("a"), "b": lambda: load("b")})
    assert registry.kinds() == ("a", "b")
    assert loaded == []
    registry.build("a", {}, context())
    registry.build("a", {}, context())
    assert loaded == ["a"]


def test_an_unknown_kind_names_the_known_ones(registry):
    assert registry.options_of("fax") is None
    with pytest.raises(ConfigurationError, match=r"fax.*dicom"):
        registry.build("fax", {}, context())


def test_wrong_options_name_the_key_and_not_the_value(registry):
    with pytest.raises(ConfigurationError) as caught:
        registry.build("folder", {"path": "copies", "pasword": "s3cret"}, context())
    assert "somewhere: pasword:" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_class_that_is_no_destination_is_refused_at_start():
    class Half:
        Options = FakeDestination.Options

        def send(self, parcel, settled):
            return Delivered()

    with pytest.raises(ConfigurationError, match=r"retry_safe.*check\(\) is missing.*close\(\) is missing"):
        DestinationRegistry({"half": lambda: Half}).plugin("half")


def test_a_plug_in_that_cannot_be_imported_is_named():
    def load():
        raise ImportError("no module named fax_library")

    with pytest.raises(ConfigurationError, match=r"'fax' cannot be loaded.*fax_library"):
        DestinationRegistry({"fax": load}).plugin("fax")


def test_two_plug_ins_of_one_kind_are_refused(monkeypatch):
    points = [SimpleNamespace(name="dicom", load=None)] * 2
    monkeypatch.setattr(destinations, "entry_points", lambda group: points)
    with pytest.raises(ConfigurationError, match="two plug-ins claim"):
        DestinationRegistry.from_entry_points()


def test_a_registry_of_given_classes_needs_no_installation():
    registry = DestinationRegistry.of([FakeDestination])
    assert registry.kinds() == ("fake",)
    assert isinstance(registry.build("fake", {}, context()), FakeDestination)
