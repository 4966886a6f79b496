"""Who watches the alarm: the look for alerts is wired as the chore that must not be missed."""

import pytest
from sqlalchemy import text

from broker.errors import DatabaseUnavailable
from tests.api_site import api_site


@pytest.fixture
def site(tmp_path, sqlite_template):
    with api_site(tmp_path, sqlite_template) as broker:
        yield broker


@pytest.fixture
def look(site):
    (chore,) = [chore for chore in site.chores() if chore.missed_after_s is not None]
    assert chore.name == "look for alerts"
    assert chore.without_database
    assert chore.missed_after_s > 2 * chore.every_s, "one bad look is not yet an alarm"
    return chore


def test_a_look_that_cannot_be_made_does_not_count_as_made(site, look):
    look.run()
    with site.engine.begin() as connection:
        connection.execute(text("ALTER TABLE alert RENAME TO alert_hidden"))
    with pytest.raises(Exception, match="alert"):
        look.run()


def test_a_database_that_is_away_is_told_of_and_counts_as_looked(look, monkeypatch):
    def away(*_, **__):
        raise DatabaseUnavailable

    monkeypatch.setattr("broker.alerting.findings", away)
    look.run()
