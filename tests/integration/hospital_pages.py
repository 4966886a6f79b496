"""A hospital behind the pages: what they are wired to, and how a test reads and presses them."""

import re
from datetime import UTC
from html.parser import HTMLParser

from broker.db.reports import SqlReports
from broker.db.worklist_query import SqlWorklistReader
from broker.dicom.objects.preview import Preview
from broker.domain.devices import DeviceProfile
from broker.errors import NotFound
from broker.hl7.anatomy import dissect, read_again
from broker.hl7.charsets import LATIN_1
from broker.hl7.mapping import MappingSet
from broker.web.ports import DestinationFacts
from broker.web.security import FIELD
from broker.workflow.entries import query_of, sights
from broker.workflow.explain import ExplainedClause, ExplainedRoute
from broker.workflow.worklist import Worklist

STUDY = "1.2.826.0.1.1"
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }}{% raw %}",
    "=HYPERLINK(1)",
    "M" * 64,
    "\u202egnp.exe",
]
PAGES = [
    "/",
    "/overview/live",
    "/handover",
    "/worklist",
    "/orders",
    "/messages",
    "/images",
    "/deliveries",
    "/devices",
    "/find",
    "/alerts",
]
WHY = [
    ExplainedRoute(
        route="chest-to-ai",
        matched=False,
        instances=2,
        destinations=("ai",),
        clauses=(
            ExplainedClause("one of these holds", False, ""),
            ExplainedClause("Modality is MR", False, "CT (image header)", depth=1),
        ),
    )
]


class Insight:
    """Computes what the wired broker does, for a site with one device; its pictures are of one pixel."""

    def __init__(self, engine, clock):
        self._engine, self._clock = engine, clock

    def devices(self):
        return ["CT1"]

    def sights(self, order_id, ae_title, asked):
        if ae_title not in self.devices():
            raise NotFound(f"There is no device {ae_title} in the site file.")
        device = DeviceProfile(ae_title=ae_title, modalities=("CT",))
        worklist = Worklist(SqlWorklistReader(self._engine), self._clock)
        query = query_of(asked, device, now=self._clock.local_now())
        return sights(SqlReports(self._engine).order_entries(order_id), query, device, worklist)

    def dissect(self, raw, problems=()):
        return dissect(raw, problems, default=LATIN_1)

    def read_again(self, raw):
        return read_again(raw, MappingSet.load(None, site_zone=UTC), default=LATIN_1)

    def preview(self, instance_id):
        SqlReports(self._engine).instance(instance_id)
        return Preview("image/png", b"\x89PNG")


FACTS = DestinationFacts("archive", "dicom", "PACS team, 4711", {"host": "pacs.hospital"})


def token(client):
    """Answer the token of this browser, as its pages carry it in every form."""
    client.get("/")
    client.get("/deliveries")
    page = client.get("/deliveries?state=DEAD").text
    found = re.search(rf'name="{FIELD}" value="([^"]+)"', page)
    assert found, "no form with a token"
    return found[1]


def press(client, path, **headers):
    return client.post(path, data={FIELD: token(client)}, headers=headers)


def state_of(client, delivery):
    found = [line for line in client.get("/api/deliveries").json() if line["id"] == delivery]
    return found[0]["state"], found[0]["attempt"], found[0]["failures"]


def pages_of(hospital):
    return [
        *PAGES,
        f"/orders/{hospital['order']}",
        f"/messages/{hospital['message']}",
        f"/deliveries/{hospital['dead']}",
        f"/deliveries/{hospital['done']}",
        f"/studies/{STUDY}",
        "/deliveries?state=DEAD&destination=archive",
        "/deliveries/review?do=retry&state=DEAD",
        "/destinations",
        "/destinations/archive",
        "/operations",
    ]


class Page(HTMLParser):
    """What a browser would act on."""

    def __init__(self, text):
        super().__init__()
        self.links, self.forms, self.inline = set(), set(), []
        self._script = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.inline += [
            f"{tag} {name}" for name in given if name == "style" or name.startswith(("on", "hx-on"))
        ]
        if tag == "style" or (tag == "script" and "src" not in given):
            self.inline.append(tag)
        for name in ("href", "src", "hx-get"):
            if name in given:
                self.links.add(given[name])
        if tag == "form" and given.get("method") == "post":
            self.forms.add(given["action"])


def fill(path):
    """Put something into the path that reads as an id and as a name."""
    return re.sub(r"{[^}]+}", "999999", path)


def events(board, name):
    from sqlalchemy import select

    from broker.db.engine import reading
    from broker.db.schema import EVENT

    with reading(board.reports._engine) as connection:
        found = connection.execute(select(EVENT).where(EVENT.c.name == name).order_by(EVENT.c.id))
        return [dict(row) for row in found.mappings()]
