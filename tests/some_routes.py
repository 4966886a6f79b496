"""Three rules: one for CT, one for nearly everything, and one that nothing meets."""

from broker.dicom.objects.header import known_keyword
from broker.domain.rules import compile_routes

RULES = [
    {"name": "ct-to-ai", "when": {"Modality": "CT"}, "send": ["ai"], "unit": "series"},
    {"name": "everything", "when": {"not": {"Modality": "SR"}}, "send": ["archive"]},
    {"name": "never-seen", "when": {"Modality": "XA"}, "send": ["archive"]},
]
ROUTES = compile_routes(RULES, known_keyword=known_keyword)
