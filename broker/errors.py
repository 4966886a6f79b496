"""The one error tree of the broker.

A docstring is the message: `raise UnknownOrder` says "The order is not known.". Each error knows what it
answers on each wire, so no adapter keeps a mapping table: the HL7 table 0357 condition and acknowledgement,
the DIMSE status (PS3.7 Annex C) and the HTTP status.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class Portable(Exception):
    """Something went wrong.

    Such an error can be handed to another process and is there what it was here, whatever its constructor takes:
    pickle would call that again with the finished sentence.
    """

    def __reduce__(self) -> tuple[object, ...]:
        """Answer how to make it again: without its constructor."""
        return _made_again, (type(self), self.args, self.__dict__)


def _made_again(kind: type[Portable], arguments: tuple[object, ...], state: Mapping[str, object]) -> Portable:
    error = kind.__new__(kind)
    error.args = arguments
    error.__dict__.update(state)
    return error


class BrokerError(Portable):
    """The broker could not do what was asked."""

    hl7_condition: ClassVar[str] = "207"
    """HL7 table 0357."""
    dimse_status: ClassVar[int] = 0x0110
    """PS3.7 Annex C: 0110 processing failure."""
    http_status: ClassVar[int] = 500

    def __init__(self, detail: str | None = None, *, field: str | None = None) -> None:
        """Say what is wrong; `field` names the place in the peer's own terms (`OBR-18`, a keyword, a key)."""
        sentence = (type(self).__doc__ or "").strip().partition("\n")[0]
        super().__init__(detail or sentence)
        self.field = field


class InvalidValue(BrokerError, ValueError):
    """The value is not valid here."""

    hl7_condition = "102"
    dimse_status = 0x0106
    http_status = 422


class MissingValue(InvalidValue):
    """A required value is missing."""

    hl7_condition = "101"
    dimse_status = 0x0120


class UnknownCode(InvalidValue):
    """The code is not in its table."""

    hl7_condition = "103"


class IllegalTransition(BrokerError):
    """The state it is in does not allow that."""

    hl7_condition = "206"
    http_status = 409


class Conflict(BrokerError):
    """What was sent is understood but contradicts what is known; a person decides."""

    hl7_condition = "205"
    http_status = 409


class UnknownOrder(Conflict):
    """The order is not known."""

    hl7_condition = "204"
    http_status = 404


class AmbiguousOrder(Conflict):
    """More than one order fits."""

    hl7_condition = "204"


class WrongPatient(Conflict):
    """The order belongs to another patient."""

    hl7_condition = "204"


class DuplicateKey(Conflict):
    """The key is already in use by another record."""

    hl7_condition = "205"
    dimse_status = 0x0111


class RecordLocked(Conflict):
    """The record is in progress and may not be changed that way."""

    hl7_condition = "206"


class NotFound(BrokerError):
    """There is no such thing."""

    hl7_condition = "204"
    dimse_status = 0x0112
    http_status = 404


class NotSignedIn(BrokerError):
    """Sign in first."""

    http_status = 401


class NotAllowed(BrokerError):
    """Your role does not allow that."""

    http_status = 403


class TooManyTries(BrokerError):
    """There were too many wrong passwords; wait before you try again."""

    http_status = 429

    def __init__(self, wait_s: int) -> None:
        """Say how long to wait."""
        super().__init__(f"There were too many wrong passwords: try again in {wait_s} s.")
        self.wait_s = wait_s


class OutOfResources(BrokerError):
    """The broker has no room or no database just now; try again."""

    dimse_status = 0xA700
    http_status = 503


class StorageFull(OutOfResources):
    """The disk reserve is reached."""

    http_status = 507


class DatabaseUnavailable(OutOfResources):
    """The database does not answer."""


class LeaseLost(BrokerError):
    """Another worker holds this delivery now."""

    http_status = 409


class ConfigurationError(BrokerError):
    """The configuration is not usable."""

    http_status = 422
