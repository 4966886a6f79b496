"""Debian's chromium by playwright: a browser for each file, and tabs somebody has signed in with."""

import re

import pytest

from tests.peers import program
from tests.postgres import missing

PATIENCE_MS = 90_000
"""Of a click or a wait: beside the whole of a test run a page may take half a minute."""


@pytest.fixture(scope="module")
def chromium():
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright")
    path = program("chromium")
    with sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


def a_context(chromium, broker, **options):
    """A browser somebody has signed in with."""
    context = chromium.new_context(base_url=f"http://127.0.0.1:{broker.web}", **options)
    context.set_default_timeout(PATIENCE_MS)
    context.add_cookies(broker.browser_cookies())
    return context


def tab_to(page, text):
    """Press Tab until what holds the focus says `text`, as somebody without a mouse does."""
    for _ in range(80):
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        if focused.count() and re.search(text, focused.inner_text() or ""):
            return
    raise AssertionError(f"{text} cannot be reached by keyboard")
