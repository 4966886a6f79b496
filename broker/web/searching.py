"""Searches in lists: names, ids and accession numbers travel in the body of a form, everything else in the URL.

A URL is kept where nobody looks after it: in the history of a browser, in the log of a proxy, in a mail.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated
from urllib.parse import urlencode

from fastapi import Depends, Request
from fastapi.responses import RedirectResponse
from pydantic import AfterValidator, Field

from broker.errors import InvalidValue
from broker.web import security
from broker.web.pages import MAX_PAGES, page_of, without_nul
from broker.workflow.reports_port import Page

MAX_CHARACTERS = 128
_MAX_DIGITS = 18


Chosen = Annotated[str, Field(max_length=MAX_CHARACTERS), AfterValidator(without_nul)]
"""A filter beside what a call of the API looks for, in its body."""
Sought = Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS), AfterValidator(without_nul)]
"""What it looks for."""


def _nothing_of_a_patient(request: Request) -> None:
    if "q" in request.query_params:
        raise InvalidValue(
            "q: what is looked for goes into the body of a POST, never into an address.", field="q"
        )


NothingSoughtByUrl = Annotated[None, Depends(_nothing_of_a_patient)]
"""A dependency: refuses an address that holds what is looked for, instead of leaving it unread."""

Fields = Annotated[Mapping[str, str], Depends(security.form_of)]


class SearchForm:
    """What was typed into the form above a list."""

    def __init__(self, fields: Fields) -> None:
        self._fields = fields

    @property
    def text(self) -> str:
        """Answer what is looked for. Raises InvalidValue."""
        text = self.field("q")
        if len(text) > MAX_CHARACTERS:
            raise InvalidValue(
                f"q: at most {MAX_CHARACTERS} characters; nothing here is called that.", field="q"
            )
        return text

    def field(self, name: str) -> str:
        """Answer a field; empty when it was not sent."""
        return without_nul(self._fields.get(name, "")).strip()

    def page(self) -> Page:
        """Answer the page of the list that was asked for. Raises InvalidValue."""
        number = self.number("page") or 1
        if number > MAX_PAGES:
            raise InvalidValue(f"page: at most {MAX_PAGES}; narrow the search", field="page")
        return page_of(number)

    def number(self, name: str) -> int | None:
        """Answer a whole number; None when it was not sent. Raises InvalidValue."""
        text = self.field(name)
        if not text:
            return None
        if not (text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS and int(text)):
            raise InvalidValue(f"{name}: a whole number from 1 on", field=name)
        return int(text)

    def without_search(self, path: str, *names: str) -> RedirectResponse:
        """Go to the address of a list that is filtered but not searched: that may be kept and sent to a colleague."""
        given = {name: value for name in names if (value := self.field(name)) not in ("", "false")}
        return RedirectResponse(f"{path}?{urlencode(given)}" if given else path, status_code=303)


TheSearch = Annotated[SearchForm, Depends(SearchForm)]
