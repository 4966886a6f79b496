"""The hospital of the ledger: its site file, and where each thing must go, worked out without the product."""

from __future__ import annotations

from typing import Any

from tests.ledger.ledger import ENDED, IMAGE, STARTED, Entry

FINAL_WORDS = {"COMPLETED": "CM", "DISCONTINUED": "DC"}
"""Performed step status -> ORC-5 (HL7 table 0038) that the RIS is told."""


def a_site(*, archive: int, cad: int, ris: int, **more: Any) -> dict[str, Any]:
    """Answer the site file; the arguments are the ports of its receivers, and further or other top-level keys."""
    quick = {"first": "1s", "cap": "2s"}

    def dicom(title: str, port: int, **other: Any) -> dict[str, Any]:
        return {
            "kind": "dicom",
            "host": "127.0.0.1",
            "port": port,
            "called_ae_title": title,
            "retry": quick,
            **other,
        }

    return {
        "site": {"name": "Ledger Hospital", "timezone": "UTC", "ae_title": "BROKER"},
        "devices": [
            {"ae_title": f"{modality}{number}", "modality": modality}
            for modality in ("CT", "MR", "US")
            for number in (1, 2, 3, 4)
        ],
        "destinations": {
            "archive": dicom("ARCHIVE", archive, safekeeping=True),
            "cad": dicom("CAD", cad),
            "ris": {"kind": "mllp", "host": "127.0.0.1", "port": ris, "retry": quick},
        },
        "feedback": {"destination": "ris", "message": "ORM^O01"},
        "completion": {"series_quiet": "1s", "study_quiet": "2s", "cap": "10s"},
        "limits": {"storage": {"free_reserve_bytes": 67108864, "free_reserve_percent": 0}},
        "routes": [
            {
                "name": "ordered-ct-to-cad",
                "when": {"Modality": "CT", "order.accession_number": {"exists": True}},
                "send": ["cad"],
                "unit": "series",
            },
            {"name": "slices-to-archive", "when": {"Modality": ["CT", "MR"]}, "send": ["archive"]},
        ],
        **more,
    }


def expected_routes(entry: Entry) -> frozenset[str]:
    """Answer the destinations that an acknowledged thing is owed to."""
    if entry.kind in (STARTED, ENDED):
        return frozenset({"ris"})
    if entry.kind != IMAGE:
        return frozenset()
    modality, is_ordered = entry.facts["modality"], bool(entry.facts.get("ordered"))
    if modality == "US":  # no route takes it: it is kept, unrouted
        return frozenset()
    if modality == "CT" and is_ordered:
        return frozenset({"archive", "cad"})
    return frozenset({"archive"})
