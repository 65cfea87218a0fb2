"""The error of an operation that the namespace refuses."""

from __future__ import annotations


class Refusal(Exception):
    """An operation is refused, with Azure's error condition and the status code of a management response."""

    def __init__(self, condition: str, description: str, status: int = 400) -> None:
        super().__init__(description)
        self.condition, self.description, self.status = condition, description, status
