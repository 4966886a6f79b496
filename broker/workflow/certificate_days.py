"""For how many days certificates are good, said as the alerts about them say it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from broker.domain.alerts import Severity
from broker.workflow.alert_conditions import CERTIFICATE_STEPS, Certificate

_GRAVE = {Severity.CRITICAL: "failing", Severity.WARNING: "attention", Severity.NOTICE: "waiting"}


@dataclass(frozen=True, slots=True)
class CertificateDays:
    """A certificate of the site file, and how long it is good."""

    name: str
    """The key it is named under, such as listen.dicom.tls."""
    ends_at: datetime | None
    """None: it cannot be read."""
    days: int | None
    """Whole days left; negative when it has ended."""
    meaning: str
    """ok, waiting, attention or failing."""
    word: str
    problem: str = ""


def standings(certificates: Sequence[Certificate], *, now: datetime) -> Sequence[CertificateDays]:
    """Answer how each stands, those in trouble first."""
    found = [_standing(one, now) for one in certificates]
    return sorted(found, key=lambda one: (one.days is not None, one.days or 0, one.name))


def _standing(one: Certificate, now: datetime) -> CertificateDays:
    if one.ends_at is None:
        return CertificateDays(one.name, None, None, "failing", "cannot be read", one.problem)
    left = one.ends_at - now
    days = left // timedelta(days=1)
    if left <= timedelta(0):
        return CertificateDays(one.name, one.ends_at, days, "failing", "has ended")
    for span, severity in CERTIFICATE_STEPS:
        if left <= span:
            return CertificateDays(one.name, one.ends_at, days, _GRAVE[severity], "ends soon")
    return CertificateDays(one.name, one.ends_at, days, "ok", "good")
