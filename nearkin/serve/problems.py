"""How the server says no: a status and one line."""

from http import HTTPStatus


class Problem(Exception):  # noqa: N818
    """A request that cannot be answered."""

    def __init__(self, status: HTTPStatus, line: str) -> None:
        super().__init__(line)
        self.status, self.line = status, line
