"""How the server says no: a status and one line."""

import json
from http import HTTPStatus


class Problem(Exception):  # noqa: N818
    """A request that cannot be answered."""

    def __init__(self, status: HTTPStatus, line: str) -> None:
        super().__init__(line)
        self.status, self.line = status, line

    @property
    def body(self) -> bytes:
        return json.dumps({"detail": self.line}).encode()

    @property
    def headers(self) -> dict[str, str]:
        """Those of an answer after which the connection ends: what is left of the request then is not read."""
        headers = {
            "content-type": "application/json",
            "content-length": str(len(self.body)),
            "connection": "close",
        }
        if self.status == HTTPStatus.SERVICE_UNAVAILABLE:
            headers["retry-after"] = "1"
        if self.status == HTTPStatus.UNAUTHORIZED:
            headers["www-authenticate"] = "Bearer"
        return headers
