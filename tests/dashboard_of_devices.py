"""A dashboard over a real database whose site lists one device."""

from datetime import UTC

from broker.db.reports import SqlReports
from broker.web.ports import Dashboard
from broker.workflow.devices import KnownDevice, admit, end_admission
from broker.workflow.idempotency import Requests
from broker.workflow.passport import OfferedService, Passport, Setting
from tests.doors import an_access, with_accounts

CT1 = KnownDevice("CT1", "10.1.4.1", ("CT",), "CT console <4711>")


class Acts:
    def __init__(self, units_of_work, clock):
        self._units_of_work, self._clock = units_of_work, clock
        self.requests = Requests(units_of_work, clock)

    def admit(self, welcome):
        return admit(welcome, self._units_of_work, self._clock)

    def end_admission(self, admission, *, actor, key=None):
        return end_admission(admission, self._units_of_work, self._clock, actor=actor, key=key)


def a_passport(ae_title):
    known = CT1 if ae_title == "CT1" else None
    settings = (Setting("Called AE title", "BROKER", "capitals count"), Setting("Port", "11112", ""))
    services = (OfferedService("Verification (C-ECHO)", "1.2.840.10008.1.1", "Implicit", 11112),)
    return Passport(ae_title, known, None, False, settings, services)


def a_dashboard_of_devices(engine, units_of_work, clock, folder, *, step_id):
    """Build it; CT1 and LOANER would see one step."""
    return Dashboard(
        reports=SqlReports(engine),
        actions=Acts(units_of_work, clock),
        destination=lambda _: None,
        health=tuple,
        explain=lambda _: (),
        insight=None,
        clock=clock,
        zone=UTC,
        site_name="Hospital",
        hosts=frozenset({"testserver"}),
        version="1.2.3",
        access=with_accounts(an_access(engine, units_of_work, clock, folder)),
        alerts=None,
        known_devices=lambda: [CT1],
        seen_by=lambda ae_title, _: [step_id] if ae_title in ("CT1", "LOANER") else [],
        passport=a_passport,
    )
