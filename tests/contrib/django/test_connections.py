"""Database connections around the calls of a handler."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db import connection, connections, transaction
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

from azsession.contrib.django import closing_connections

from ...support.processes import environment
from .projects import make_project, manage


def test_a_wrapped_handler_begins_with_fresh_database_connections() -> None:
    seen: list[object] = []

    def handle(message: object, session: object) -> str:
        assert connection.queries_log.maxlen
        seen.append(len(connection.queries))
        connection.cursor().execute("SELECT 1")
        seen.append(len(connection.queries))
        return f"{message} {session}"

    with override_settings(DEBUG=True):
        wrapped = closing_connections(handle)
        for _ in range(2):
            assert wrapped("one", session="two") == "one two"
            # CONN_MAX_AGE is 0.
            assert connection.connection is None
    assert seen == [0, 1, 0, 1]
    assert wrapped.__name__ == "handle"


def test_a_failed_handler_leaves_no_database_connection_open() -> None:
    def handle() -> None:
        connection.cursor().execute("SELECT 1")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        closing_connections(handle)()
    assert connection.connection is None


@pytest.fixture
def table() -> Iterator[str]:
    """A table in both databases, which are files."""
    for each in connections.all():
        each.cursor().execute("CREATE TABLE item (name TEXT)")
    yield "item"
    for each in connections.all():
        each.cursor().execute("DROP TABLE item")


def _insert(using: str = "default") -> None:
    connections[using].cursor().execute("INSERT INTO item VALUES ('tea')")


def _count(using: str = "default") -> int:
    with connections[using].cursor() as cursor:
        cursor.execute("SELECT COUNT(*) FROM item")
        return int(cursor.fetchone()[0])


@pytest.mark.usefixtures("table")
def test_a_row_written_in_a_transaction_before_a_call_is_kept() -> None:
    with transaction.atomic():
        _insert()
        closing_connections(_insert)()
        assert _count() == 2
    assert _count() == 2


@pytest.mark.usefixtures("table")
def test_a_failed_handler_rolls_back_to_the_savepoint_and_no_further() -> None:
    def handle() -> None:
        with transaction.atomic():
            _insert()
            raise ZeroDivisionError

    with transaction.atomic():
        _insert()
        with pytest.raises(ZeroDivisionError):
            closing_connections(handle)()
    assert _count() == 1


@pytest.mark.usefixtures("table")
def test_only_the_connection_inside_of_a_transaction_is_left_alone() -> None:
    _insert("other")
    with transaction.atomic():
        _insert()
        closing_connections(lambda: None)()
        assert connection.connection is not None
        assert connections["other"].connection is None
    closing_connections(lambda: None)()
    assert connection.connection is None


def test_queries_that_a_test_counts_are_kept() -> None:
    with CaptureQueriesContext(connection) as queries:
        connection.cursor().execute("SELECT 1")
        closing_connections(lambda: connection.cursor().execute("SELECT 2"))()
    assert [query["sql"] for query in queries] == ["SELECT 1", "SELECT 2"]


TESTS = """
from django.db import transaction
from django.test import TestCase, TransactionTestCase

from azsession.contrib.django import closing_connections

from .models import Item


@closing_connections
def handle(message, session):
    Item.objects.create(name=message)


class InTransaction(TestCase):
    databases = {"default", "other"}

    @classmethod
    def setUpTestData(cls):
        Item.objects.create(name="coffee")

    def test_twice(self):
        for _ in range(2):
            handle("tea", None)
        self.assertEqual(Item.objects.count(), 3)

    def test_queries(self):
        with self.assertNumQueries(1):
            handle("tea", None)

    def test_on_commit(self):
        with self.captureOnCommitCallbacks(execute=True) as callbacks:
            handle("tea", None)
            transaction.on_commit(lambda: Item.objects.create(name="sent"))
        self.assertEqual((len(callbacks), Item.objects.count()), (1, 3))


class WithoutTransaction(TransactionTestCase):
    def test_atomic(self):
        with transaction.atomic():
            Item.objects.create(name="coffee")
            handle("tea", None)
        self.assertEqual(Item.objects.count(), 2)
"""


def test_the_tests_of_a_project_can_call_handlers(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project", TESTS)
    manage("makemigrations", "stock", environ=environment(), project=project)
    ended = manage("test", "--no-input", "stock", environ=environment(), project=project)
    assert "Ran 4 tests" in ended.stderr
