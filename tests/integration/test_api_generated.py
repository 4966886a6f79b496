"""Every operation of the JSON API over a real socket, asked by generated requests: allowed by its description, and not."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from broker.web_server import WebServer
from tests.api_site import api_site, token

pytestmark = pytest.mark.timeout(900)
SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
CONFIG = Path(__file__).with_name("schemathesis.toml")
EXAMPLES = 2
"""Generated for each operation, beside those that walk along every limit of its description."""
OTHER_TOKENS = 30
"""Issued before ours: a generated request revokes one with a low number."""
PHASES = "examples,coverage,fuzzing"


@pytest.fixture
def served(tmp_path, sqlite_template):
    with api_site(tmp_path, sqlite_template) as broker:
        server = WebServer(broker)
        server.start()
        yield broker
        server.stop(10)


def test_every_operation_answers_as_its_description_says(served, tmp_path):
    site = served.loaded.site.listen.web
    ours = [token(served) for _ in range(OTHER_TOKENS + 1)][-1]
    done = subprocess.run(
        [
            *(SCHEMATHESIS, "--config-file", CONFIG, "run", f"http://127.0.0.1:{site.port}/openapi.json"),
            *("--header", f"Authorization: Bearer {ours}"),
            *("--include-path-regex", "^/api/"),
            *("--phases", PHASES, "--max-examples", str(EXAMPLES)),
            *("--generation-deterministic", "--no-shrink"),
            *("--suppress-health-check", "all", "--workers", "2"),
            *("--request-timeout", "60", "--no-color", "--continue-on-failure"),
        ],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "150"},
        capture_output=True,
        text=True,
        check=False,
        timeout=840,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-20_000:]
    tested = re.search(r"Tested: (\d+)", said)
    assert tested, said[-5_000:]
    assert int(tested[1]) > 60, "it asked every operation"
