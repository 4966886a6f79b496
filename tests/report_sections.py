"""Reports in docs/ whose sections are measured one by one: a new one takes the place of the old, the others stay."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def put(report: Path, *, head: str, titles: Sequence[str], section: str) -> None:
    """Write a section, which begins with its `## title`, into its place among all titles."""
    there = report.read_text(encoding="utf-8").split("\n## ")[1:] if report.exists() else []
    sections = {text.partition("\n")[0]: f"## {text.rstrip()}" for text in there}
    sections[section.partition("\n")[0].removeprefix("## ")] = section.rstrip()
    kept = [sections[title] for title in titles if title in sections]
    report.write_text("\n\n".join([head.rstrip(), *kept]) + "\n", encoding="utf-8")
