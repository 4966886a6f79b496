"""The services a whole broker needs, as the journeys have them."""

from tests.journeys.conftest import redis, services  # noqa: F401
