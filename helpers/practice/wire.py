"""What goes over the wire besides the endpoints' own answers: requests, pages, errors."""

from __future__ import annotations

import json
from email import message_from_bytes
from typing import Any, NamedTuple


class ApiError(Exception):
    """An answer other than 200, in OpenAI's envelope."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        kind: str = "invalid_request_error",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"message": message, "type": kind, "param": param, "code": code}


class HttpRequest(NamedTuple):
    """What came besides the path."""

    query: dict[str, str]
    body: bytes
    content_type: str

    def json(self) -> dict[str, Any]:
        """The body as a JSON object."""
        try:
            value = json.loads(self.body)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise ApiError(400, "We could not parse the JSON body of your request.")
        return value

    def form(self) -> dict[str, Any]:
        """The parts of a multipart/form-data body, by name."""
        head = f"Content-Type: {self.content_type}\r\n\r\n"
        parts = message_from_bytes(head.encode() + self.body).get_payload()
        if not isinstance(parts, list):
            raise ApiError(400, "The body is no multipart/form-data.")
        return {str(part.get_param("name", header="content-disposition")): part for part in parts}

    def page(self, items: list[dict[str, Any]], default: int) -> dict[str, Any]:
        """One page of a list: `limit` items behind the one called `after`."""
        ids = [item["id"] for item in items]
        start = 0
        after = self.query.get("after")
        if after:
            if after not in ids:
                raise ApiError(400, f"No such cursor: {after}", param="after")
            start = ids.index(after) + 1
        end = start + int(self.query.get("limit") or default)
        shown = ids[start:end]
        return {
            "object": "list",
            "data": items[start:end],
            "has_more": end < len(items),
            "first_id": shown[0] if shown else None,
            "last_id": shown[-1] if shown else None,
        }
