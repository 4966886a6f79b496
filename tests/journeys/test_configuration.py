"""An admin changes the site file by the pages, sees who did it and why, and goes back when it was broken by hand."""

import http.client
import json

import pytest

from tests.broker_process import ADMIN, RunningBroker, wait_until
from tests.journeys.browser import a_context

pytestmark = [pytest.mark.slow, pytest.mark.peer, pytest.mark.timeout(500)]


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    site = {"site": {"name": "Version Hospital"}, "devices": [{"ae_title": "CT1", "contact": "ZZANN 4711"}]}
    running = RunningBroker(tmp_path_factory.mktemp("c"), site)
    try:
        yield running.start()
    finally:
        running.stop()


def standing(broker):
    """Ask how it stands; while the roles are replaced the pages are away."""
    try:
        return broker.api("configuration")
    except (OSError, http.client.HTTPException):
        return {"roles": [], "in_force": {"how": ""}}


def all_run_on(broker, version):
    """Tell whether every role runs on a version."""
    roles = standing(broker)["roles"]
    return len(roles) == 5 and {role["version"] for role in roles} == {version}


def test_from_a_new_text_to_all_roles_and_back(broker, chromium):
    context = a_context(chromium, broker, viewport={"width": 1280, "height": 800})
    page, said = context.new_page(), []
    page.on("pageerror", lambda error: said.append(str(error)))
    wait_until(lambda: all_run_on(broker, 1), timeout_s=90, what="all roles on version 1")
    page.goto("/admin")
    page.get_by_role("navigation", name="Admin").get_by_role("link", name="Configuration").click()
    assert "Version 1 since" in page.locator(".note").first.inner_text()
    new = {**json.loads(broker.config.read_text()), "site": {"name": "Renamed Hospital"}}
    page.get_by_label("The whole new site file").fill(json.dumps(new, indent=1))
    page.get_by_role("button", name="Check it").click()
    page.locator("del").wait_for()
    assert page.locator("ins").all_inner_texts() == ["  name: Renamed Hospital"]
    assert page.locator("del").all_inner_texts() == ["  name: Version Hospital"]
    assert "ZZANN" not in page.content()
    page.get_by_label("Why").fill("the hospital has a new name")
    page.get_by_role("button", name="Put it into the site file").click()
    page.wait_for_url("**/admin/configuration")
    assert "Version 2 stands in the site file" in page.locator(".note.waiting").inner_text()
    page.get_by_role("button", name="Reload now").click()
    assert page.locator("h1").inner_text() == "Reloading"
    page.goto("about:blank")  # before it goes on by itself
    wait_until(lambda: all_run_on(broker, 2), timeout_s=90, what="all roles on version 2")
    page.goto("/admin/configuration")
    line = page.locator("tr.here").inner_text()
    assert ADMIN in line
    assert "the hospital has a new name" in line
    assert "Renamed Hospital" in page.locator(".brand").inner_text()
    context.close()
    assert said == []

    # Somebody broke it by hand at three in the morning: the way back needs no page and no good file.
    broker.config.write_text("oops: [")
    told = broker.cli("config", "rollback", "2", "--reason", "broken by hand", "--reload")
    assert "holds version 2 now; before: 3" in told
    assert json.loads(broker.config.read_text())["site"] == {"name": "Renamed Hospital"}
    wait_until(lambda: standing(broker)["in_force"]["how"] == "rolled back", timeout_s=90, what="the reload")
    wait_until(lambda: all_run_on(broker, 2), timeout_s=90, what="all roles on version 2 again")
    history = broker.api("configuration/history")
    assert [(line["version"], line["how"], line["reason"]) for line in history] == [
        (2, "rolled back", "broken by hand"),
        (2, "applied", "the hospital has a new name"),
        (1, "found", ""),
    ]
