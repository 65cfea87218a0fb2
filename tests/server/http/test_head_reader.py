"""A connection reads the same headers once. It reads all other headers."""

from __future__ import annotations

from contextlib import closing

import pytest

from azsession.errors import MessageTooLargeError, ValidationError
from azsession.server.http.framing import MAX_KEPT, HeadReader
from azsession.server.http.limits import MAX_HEAD_SIZE

from ..raw import Gateway

HOST = (b"host", b"here")


def test_the_same_headers_are_read_once() -> None:
    reader = HeadReader()
    first = reader.read("1.1", 10, [HOST, (b"a", b"b")])
    assert reader.read("1.1", 20, [HOST, (b"a", b"b")]) is first
    assert first.headers.get("A") == "b"


@pytest.mark.parametrize(
    "other", [[HOST], [HOST, (b"a", b"c")], [HOST, (b"b", b"b")], [(b"a", b"b"), HOST], [HOST, (b"a", b"b"), HOST]]
)
def test_other_headers_are_not_taken_for_the_known_ones(other: list[tuple[bytes, bytes]]) -> None:
    reader, alone = HeadReader(), HeadReader()
    reader.read("1.1", 10, [HOST, (b"a", b"b")])
    try:
        expected = alone.read("1.1", 10, other).headers.items()
    except ValidationError:
        with pytest.raises(ValidationError):
            reader.read("1.1", 10, other)
    else:
        assert reader.read("1.1", 10, other).headers.items() == expected


def test_the_same_headers_with_another_version_are_checked_for_that_version() -> None:
    reader = HeadReader()
    chunked = [HOST, (b"transfer-encoding", b"chunked")]
    assert reader.read("1.1", 10, chunked).has_body
    with pytest.raises(ValidationError, match=r"HTTP/1\.0"):
        reader.read("1.0", 10, chunked)


def test_headers_that_were_refused_are_refused_again() -> None:
    reader = HeadReader()
    for _ in range(2):
        with pytest.raises(ValidationError):
            reader.read("1.1", 10, [HOST, HOST])
    assert reader.read("1.1", 10, [HOST]).headers.get("Host") == "here"


def test_the_path_counts_for_the_size_of_each_head() -> None:
    reader = HeadReader()
    reader.read("1.1", 10, [HOST])
    with pytest.raises(MessageTooLargeError):
        reader.read("1.1", MAX_HEAD_SIZE, [HOST])
    reader.read("1.1", 10, [HOST])


def test_large_headers_are_not_kept() -> None:
    reader = HeadReader()
    large = [HOST, (b"a", b"b" * MAX_KEPT)]
    assert reader.read("1.1", 10, large) is not reader.read("1.1", 10, large)


def test_each_request_of_a_connection_needs_its_own_token(gateway: Gateway, queue: str) -> None:
    with closing(gateway.connect()) as connection:
        statuses = []
        for token in (gateway.token(), gateway.token(), "SharedAccessSignature sr=x&sig=y&se=1&skn=z", gateway.token()):
            connection.request("GET", f"/{queue}/sessions", headers={"Authorization": token})
            response = connection.getresponse()
            response.read()
            statuses.append(response.status)
    assert statuses == [200, 200, 401, 200]
