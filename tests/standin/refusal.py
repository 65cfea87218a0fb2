"""The error of an operation that the namespace refuses."""

from __future__ import annotations


class Refusal(Exception):
    """An operation is refused, with Azure's error condition and the status code of a management response."""

    def __init__(self, condition: str, description: str, status: int = 400) -> None:
        super().__init__(description)
        self.condition, self.description, self.status = condition, description, status


#: The status codes of responses, by condition. Others have 400.
STATUS = {
    "amqp:unauthorized-access": 401,
    "amqp:not-found": 404,
    "com.microsoft:message-not-found": 404,
    "com.microsoft:timeout": 408,
    "com.microsoft:session-lock-lost": 410,
    "com.microsoft:message-lock-lost": 410,
    "com.microsoft:session-cannot-be-locked": 410,
    "com.microsoft:server-busy": 503,
    "amqp:internal-error": 500,
}
