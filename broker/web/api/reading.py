"""What the lists of the JSON API share: how much is asked for, and where the next part is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Annotated, Any, TypeVar
from urllib.parse import quote

from fastapi import Depends, Query, Request, Response
from pydantic import AfterValidator

from broker.errors import Conflict
from broker.web.pages import without_nul
from broker.workflow.reports_port import MAX_PAGE

Line = TypeVar("Line")
WHERE = "Where the part before ended, as its `next` link says."
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="How many at most.")]
After = Annotated[str, Query(max_length=200, description=WHERE), AfterValidator(without_nul)]
AfterId = Annotated[str, Query(pattern=r"^([1-9][0-9]{0,17})?$", description=WHERE)]


class Listing:
    """Which part of a list is asked for; says where the next one begins.

    Parts are told by what stood last in the one before, so that nothing is shown twice or left out when something
    comes in between.
    """

    def __init__(self, request: Request, response: Response, limit: Limit = 50, after: After = "") -> None:
        self._request, self._response = request, response
        self.limit, self.after = limit, after

    @property
    def most(self) -> int:
        """Answer how many rows to read: one more than is shown says whether there is a next part."""
        return self.limit + 1

    def shown(self, lines: Sequence[Line], key: Callable[[Line], object]) -> list[Line]:
        """Answer what is shown of `most` rows; `key` is what the next part begins behind."""
        shown = list(lines[: self.limit])
        if len(lines) > self.limit:
            query = self._request.url.include_query_params(after=str(key(shown[-1]))).query
            # As it came it is decoded: an AE title may hold a space.
            self._response.headers["Link"] = f'<{quote(self._request.scope["path"])}?{query}>; rel="next"'
        return shown


class IdListing(Listing):
    """A part of a list whose rows have ids."""

    def __init__(self, request: Request, response: Response, limit: Limit = 50, after: AfterId = "") -> None:
        super().__init__(request, response, limit, after)

    @property
    def after_id(self) -> int | None:
        """Answer the id the part before ended with."""
        return int(self.after) if self.after else None


class WholeListing(Listing):
    """A part of a list that is bounded by itself, and is read whole."""

    def __init__(
        self, request: Request, response: Response, limit: Limit = MAX_PAGE, after: After = ""
    ) -> None:
        super().__init__(request, response, limit, after)

    def part(self, lines: Sequence[Line], key: Callable[[Line], object]) -> list[Line]:
        """Cut the part out of the whole. Raises Conflict when what it begins behind is gone."""
        begin = 0
        if self.after:
            places = [place for place, line in enumerate(lines) if str(key(line)) == self.after]
            if not places:
                raise Conflict("after: that is not in the list any more; begin again", field="after")
            begin = places[0] + 1
        return self.shown(lines[begin : begin + self.most], key)


class NumberedListing(IdListing):
    """A part of a list that only grows at its end, and whose rows have nothing but their place to be told by."""

    def __init__(
        self, request: Request, response: Response, limit: Limit = MAX_PAGE, after: AfterId = ""
    ) -> None:
        super().__init__(request, response, limit, after)

    def part(self, lines: Sequence[Line]) -> list[Line]:
        """Cut the part out of the whole."""
        begin = self.after_id or 0
        numbered = list(enumerate(lines, 1))[begin : begin + self.most]
        return [line for _, line in self.shown(numbered, lambda pair: pair[0])]


TheListing = Annotated[Listing, Depends()]
TheIds = Annotated[IdListing, Depends()]
TheWhole = Annotated[WholeListing, Depends()]
TheNumbered = Annotated[NumberedListing, Depends()]


def rows(lines: Sequence[Any]) -> list[dict[str, Any]]:
    """Answer lines as JSON objects."""
    return [asdict(line) for line in lines]
