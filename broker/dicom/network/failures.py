"""Name how an association that we asked for can fail, and where it was when it failed."""

from __future__ import annotations

from enum import Enum

from broker.errors import Portable


class Phase(Enum):
    """Say how far we had come."""

    RESOLVE = "resolve"
    CONNECT = "connect"
    TLS = "tls"
    ASSOCIATE = "associate"
    SEND = "send"
    ANSWER = "answer"
    RELEASE = "release"


class AssociationError(Portable):
    """The association did not do what we wanted of it."""


class ConnectFailed(AssociationError):
    """The peer could not be reached."""

    def __init__(self, phase: Phase, detail: str, *, is_configuration: bool = False) -> None:
        super().__init__(f"{phase.value}: {detail}")
        self.phase = phase
        self.detail = detail
        self.is_configuration = is_configuration
        """Time will not heal it: a certificate that is refused, a protocol that does not fit."""


class AssociationRejected(AssociationError):
    """The peer rejected the association."""

    def __init__(self, result: int, source: int, reason: int) -> None:
        super().__init__(f"rejected {result}/{source}/{reason}")
        self.result = result
        self.source = source
        self.reason = reason


class AssociationAborted(AssociationError):
    """The association was aborted, by the peer or because the peer broke the protocol."""

    def __init__(self, source: int, reason: int, *, phase: Phase) -> None:
        super().__init__(f"aborted {source}/{reason} in {phase.value}")
        self.source = source
        self.reason = reason
        self.phase = phase


class AssociationLost(AssociationError):
    """The connection was lost."""

    def __init__(self, phase: Phase) -> None:
        super().__init__(f"lost in {phase.value}")
        self.phase = phase


class TimedOut(AssociationError):
    """The peer did not answer in time."""

    def __init__(self, phase: Phase) -> None:
        super().__init__(f"timed out in {phase.value}")
        self.phase = phase


class ContextNotAccepted(AssociationError):
    """The peer accepted no presentation context that fits; `result` is its answer, None when not proposed."""

    def __init__(self, abstract_syntax: str, transfer_syntax: str | None, *, result: int | None) -> None:
        super().__init__(f"no context for {abstract_syntax} in {transfer_syntax}, result {result}")
        self.abstract_syntax = abstract_syntax
        self.transfer_syntax = transfer_syntax
        self.result = result
