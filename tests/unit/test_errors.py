"""Every error crosses from one process to another as it is: Celery and multiprocessing pickle what is raised."""

from __future__ import annotations

import importlib
import pickle
import pkgutil
from collections.abc import Iterator

import pytest

import broker
import workers
from broker.dicom.network.failures import (
    AssociationAborted,
    AssociationLost,
    AssociationRejected,
    ConnectFailed,
    ContextNotAccepted,
    Phase,
    TimedOut,
)
from broker.dicom.objects.identifier import IdentifierRefused
from broker.dicom.objects.performed_steps import PerformedStepRefused, Refusal
from broker.domain.rule_syntax import RouteSyntaxError
from broker.errors import BrokerError, Portable, TooManyTries
from broker.hl7.mapping_file import MappingFileError
from broker.placed_yaml import FileProblems, Problem
from broker.site_file import SiteFileError
from broker.workflow.configuration import FixedSiteFile, InvalidConfiguration

WITH_ARGUMENTS_OF_THEIR_OWN = [
    IdentifierRefused("the key is no date", elements=(0x00400002,)),
    PerformedStepRefused(next(iter(Refusal)), (0x00400252,), "is final"),
    RouteSyntaxError([("routes.0.when", "no such attribute")]),
    FileProblems([Problem("broker.yaml", 3, 1, "listen", "is no mapping")]),
    SiteFileError([Problem("broker.yaml", 3, 1, "listen", "is no mapping")]),
    MappingFileError([Problem("orm.yaml", 3, 1, "PID-3", "is no path")]),
    InvalidConfiguration(["broker.yaml:3:1: listen: is no mapping"]),
    FixedSiteFile("it is mounted", ["broker config rollback 6"]),
    ConnectFailed(Phase.TLS, "the certificate is not trusted", is_configuration=True),
    TooManyTries(30),
    AssociationRejected(1, 1, 7),
    AssociationAborted(2, 0, phase=Phase.SEND),
    AssociationLost(Phase.ANSWER),
    TimedOut(Phase.RELEASE),
    ContextNotAccepted("1.2.840.10008.5.1.4.1.1.2", None, result=3),
]


def kinds(of: type[Portable] = Portable) -> Iterator[type[Portable]]:
    for kind in of.__subclasses__():
        yield kind
        yield from kinds(kind)


def everything_is_imported() -> None:
    for package in (broker, workers):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if ".migrations." not in module.name and not module.name.endswith("__main__"):
                importlib.import_module(module.name)


def examples() -> Iterator[Portable]:
    yield from WITH_ARGUMENTS_OF_THEIR_OWN
    made = {type(error) for error in WITH_ARGUMENTS_OF_THEIR_OWN}
    for kind in sorted(set(kinds()) - made, key=lambda kind: kind.__qualname__):
        if kind.__module__.partition(".")[0] in ("broker", "workers"):
            yield kind("what went wrong", field="PID-3") if issubclass(kind, BrokerError) else kind("lost")


def test_every_error_survives_pickling() -> None:
    everything_is_imported()
    seen = 0
    for error in examples():
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error)), type(error)
        seen += 1
    assert seen > 40


def test_without_portable_an_error_with_arguments_of_its_own_would_not(monkeypatch) -> None:
    monkeypatch.delattr(Portable, "__reduce__")
    with pytest.raises(TypeError):
        pickle.loads(pickle.dumps(AssociationRejected(1, 1, 7)))
