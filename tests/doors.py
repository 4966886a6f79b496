"""The door of the pages for tests: cheap hashing, accounts of every role, and browsers that signed in by the form."""

import re

from argon2 import PasswordHasher
from fastapi.testclient import TestClient

from broker.db.reports import SqlReports
from broker.db.seal import verify_events
from broker.domain.access import Role
from broker.files.first_run import FirstRunFile
from broker.passwords import Argon2idHasher
from broker.web.security import FIELD
from broker.workflow.access import Access
from broker.workflow.accounts import AccountAdministration, Caller
from broker.workflow.api_tokens import TokenAdministration
from broker.workflow.audit import Audit
from broker.workflow.sign_in import SignIn

PASSWORD = "one lamp, two doors"
TESTER = Caller("tester", "192.0.2.7")


def quick_hasher():
    """Argon2id with the least it allows: a test signs in often."""
    hasher = Argon2idHasher()
    hasher._argon2 = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    return hasher


def an_access(engine, units_of_work, clock, folder, *, hasher=None):
    """Build the use cases of the door on a database."""
    reports, hasher = SqlReports(engine), hasher or quick_hasher()
    return Access(
        accounts=AccountAdministration(units_of_work, reports, hasher, clock, first_run=FirstRunFile(folder)),
        sign_in=SignIn(units_of_work, reports, hasher, clock),
        tokens=TokenAdministration(units_of_work, reports, clock),
        audit=Audit(units_of_work, clock),
        reports=reports,
        verify=lambda: verify_events(engine),
    )


def with_accounts(access):
    """Add an account of each role, named after it."""
    for role in Role:
        access.accounts.add(role.value, role, PASSWORD, by=TESTER)
    return access


def a_browser(app, **options):
    """A browser that has not signed in."""
    options = {"follow_redirects": False, "headers": {"accept": "text/html"}, **options}
    return TestClient(app, **options)


def form_token(text):
    """Answer the token in a page's first form."""
    found = re.search(rf'name="{FIELD}" value="([^"]+)"', text)
    assert found, "no form with a token"
    return found[1]


def sign_in(browser, name="admin", password=PASSWORD, **fields):
    """Fill in the sign-in form and send it; answer what came back."""
    page = browser.get("/sign-in").text
    return browser.post(
        "/sign-in", data={FIELD: form_token(page), "name": name, "password": password, **fields}
    )


def signed_in(app, name="admin", **options):
    """A browser somebody has signed in with."""
    browser = a_browser(app, **options)
    answer = sign_in(browser, name)
    assert answer.status_code == 303, answer.text
    return browser
