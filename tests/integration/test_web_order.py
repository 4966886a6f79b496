"""The page of one order: timeline, sources, who would see it; and the small pictures of its images."""

import re

from tests.builders import a_stored_entry
from tests.integration.hospital_pages import Page


def test_an_order_tells_what_scanners_are_told_and_from_where(client, store):
    entry = store(lambda uow: a_stored_entry(uow, 1, step={"sources": {"Modality": "OBR-24"}}))
    text = client.get(f"/orders/{entry.order.id}").text
    assert re.search(r"<code>Modality</code>.*?<bdi>CT</bdi>.*?<code>OBR-24</code>", text)
    values = client.get(f"/api/orders/{entry.order.id}/entry").json()
    assert {"level": "step SPS1", "keyword": "Modality", "value": "CT", "source": "OBR-24"} in values
    assert client.get("/api/orders/999/entry").status_code == 404


def test_would_a_scanner_see_it(client, store, clock):
    day = clock.local_now().strftime("%Y%m%d")
    entry = store(lambda uow: a_stored_entry(uow, 1, step={"start_date": day, "modality": "MR"}))
    path = f"/orders/{entry.order.id}"
    text = client.get(f"{path}?device=CT1").text
    assert "CT1 would not be shown step SPS1" in text
    assert "Modality is MR, asked for CT" in text
    assert "is not among the recent queries" in text
    text = client.get(f"{path}?device=CT1&asks=&asks=station&asks=today").text
    assert "CT1 would be shown step SPS1" in text
    assert re.search(r'value="modality">', text), "what was chosen stays chosen"
    (sight,) = client.get(f"/api{path}/sights?device=CT1&modality=false").json()
    assert sight["seen"] is True
    assert client.get(f"{path}?device=NOBODY").status_code == 404


def test_a_preview_is_kept_by_the_browser_and_names_nobody(client, hospital):
    path = f"/instances/{hospital['instance']}/preview"
    first = client.get(path)
    assert (first.status_code, first.headers["content-type"]) == (200, "image/png")
    assert first.headers["cache-control"] == "private, no-cache"
    again = client.get(path, headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/instances/999/preview").status_code == 404
    assert path in Page(client.get("/studies/1.2.826.0.1.1").text).links
