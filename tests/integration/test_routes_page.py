"""The rules in force as people see them: what each says and did, dead ones, and a study tried."""

from datetime import UTC, timedelta

import pytest
from sqlalchemy import select

from broker.db.reports import SqlReports
from broker.db.schema import EVENT
from broker.dicom.objects.header import known_keyword
from broker.domain.events import EventName
from broker.domain.rules import compile_routes
from broker.web.app import create_app
from broker.web.ports import Dashboard
from broker.workflow.explain import try_study
from broker.workflow.routing import Purpose, RoutedDestination, RoutingPolicy, route
from tests.builders import NOW, an_instance
from tests.doors import an_access, signed_in, with_accounts
from tests.some_routes import ROUTES

STUDY = "1.2.826.0.1.77"
HOSTILE = '<b>"&\u202e'


class Site:
    """A site with three rules, on a real database."""

    def __init__(self, engine, units_of_work, clock, folder, routes=ROUTES):
        self.engine, self.units_of_work, self.clock = engine, units_of_work, clock
        self.board = Dashboard(
            reports=SqlReports(engine),
            actions=None,
            destination=lambda name: None,
            health=list,
            explain=lambda study: [],
            insight=None,
            clock=clock,
            zone=UTC,
            site_name="Hospital",
            hosts=frozenset({"testserver"}),
            version="1.2.3",
            access=with_accounts(an_access(engine, units_of_work, clock, folder)),
            alerts=None,
            routes=routes,
            try_study=self.try_study,
        )
        self.client = signed_in(create_app(self.board), "viewer")

    def try_study(self, study):
        with self.units_of_work() as uow:
            return try_study(uow, study, routes=self.board.routes)

    def receive(self, number, **changes):
        """Let an image come and be routed, as the worker does."""
        with self.units_of_work() as uow:
            configuration = uow.decisions.record_configuration(
                "1" * 64,
                "routes: [ct-to-ai, everything, never-seen]",
                by="site file",
                now=NOW - timedelta(days=60),
            )
            (key,) = uow.instances.add_many([an_instance(number, **changes)])
            destinations = {
                "ai": RoutedDestination("ai", "dicom", Purpose.ALGORITHM),
                "archive": RoutedDestination("archive", "dicom", Purpose.STORAGE),
            }
            policy = RoutingPolicy(ROUTES, configuration, destinations)
            route(uow, [key], policy, now=self.clock.now())
            uow.commit()

    def page(self, query=""):
        answer = self.client.get(f"/routes{query}")
        assert answer.status_code == 200
        return answer.text

    def json(self, path):
        answer = self.client.get(path)
        assert answer.status_code == 200
        return answer.json()


@pytest.fixture
def site(engine, uow_factory, clock, tmp_path):
    return Site(engine, uow_factory, clock, tmp_path)


def images(site):
    """Two CT images of one series from CT1, and a report nobody wants."""
    for number in (1, 2):
        site.receive(
            number,
            study_instance_uid=STUDY,
            series_instance_uid=f"{STUDY}.1",
            calling_ae_title="CT1",
            facts={"Modality": ("CT",)},
        )
    site.receive(
        3,
        study_instance_uid=STUDY,
        series_instance_uid=f"{STUDY}.2",
        calling_ae_title=HOSTILE,
        facts={"Modality": ("SR",)},
    )


def test_the_rules_say_what_they_did_today_in_series_and_deliveries(site):
    images(site)
    told = site.json("/api/routes")
    ai, everything, never = told["rules"]
    assert (ai["matched_today"], ai["sent_today"], ai["state"]) == (1, {"ai": 1}, "sends")
    assert (everything["matched_today"], everything["state"]) == (1, "sends")
    assert everything["last"][0]["study_instance_uid"] == STUDY
    assert (never["matched_today"], never["sent_today"], never["last"]) == (0, {"archive": 0}, [])
    assert told["sources"] == [
        {"ae_title": HOSTILE, "series": 1, "unrouted": 1},
        {"ae_title": "CT1", "series": 1, "unrouted": 0},
    ]
    assert told["matches"] == [
        {"ae_title": "CT1", "rule": "ct-to-ai", "series": 1},
        {"ae_title": "CT1", "rule": "everything", "series": 1},
    ]


def test_a_rule_that_sends_nothing_is_named_as_dead_and_a_young_one_is_not(site):
    images(site)
    assert "has sent nothing in the 60 days" in site.page()
    assert [rule["state"] for rule in site.json("/api/routes?days=90")["rules"]] == ["sends", "sends", "new"]
    site.clock.advance(timedelta(days=31))
    site.client = signed_in(site.client.app, "viewer")  # the session is long over
    rules = site.json("/api/routes")["rules"]
    assert [rule["state"] for rule in rules] == ["dead"] * 3
    assert rules[0]["why"] == "sent nothing for 31 days"
    assert rules[0]["matched_today"] == 0  # that was another day


def test_the_page_draws_the_ways_and_escapes_what_peers_call_themselves(site):
    images(site)
    page = site.page()
    assert "CT1 to ct-to-ai: 1 series" in page
    assert "ct-to-ai to ai: 1 delivery" in page
    assert "When Modality is CT: each series, when complete, goes to ai." in page
    assert "<b>&#34;" not in page
    assert "&lt;b&gt;&#34;&amp;" in page


def test_a_study_is_tried_on_the_rules_in_force_and_nothing_changes(site):
    images(site)
    before = site.json("/api/routes")
    listed = viewed(site)
    page = site.page(f"?study={STUDY}")
    opened = viewed(site)
    assert "would take 2 images" in page
    assert "would not take 1 image" in page
    assert site.json("/api/routes") == before
    assert opened == [*listed, "viewer"]
    verdicts = {
        (verdict["route"], verdict["matched"]): verdict["instances"]
        for verdict in site.json(f"/api/studies/{STUDY}/routes/now")
    }
    assert verdicts[("ct-to-ai", True)] == 2
    assert verdicts[("everything", False)] == 1


def viewed(site):
    """Answer who is in the audit trail for having seen the study."""
    with site.engine.connect() as connection:
        return list(
            connection.execute(
                select(EVENT.c.actor).where(
                    EVENT.c.name == EventName.VIEWED.value, EVENT.c.study_instance_uid == STUDY
                )
            ).scalars()
        )


def test_an_unknown_study_is_said_beside_the_field_that_keeps_it(site):
    page = site.page("?study=9.9.%3Cb%3E")
    assert 'value="9.9.&lt;b&gt;"' in page
    assert 'aria-invalid="true"' in page
    assert "No image of a study with this UID has come" in page


def test_a_site_without_rules_says_that_nothing_is_sent(engine, uow_factory, clock, tmp_path):
    none = compile_routes([], known_keyword=known_keyword)
    page = Site(engine, uow_factory, clock, tmp_path, routes=none).page()
    assert "nothing that comes is sent anywhere" in page
