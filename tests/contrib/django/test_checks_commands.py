"""Commands of a project that has no broker, as processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from ...support.processes import environment
from .projects import make_project, manage

#: The commands of a new project, in their order.
COMMANDS = (
    ["check"],
    ["makemigrations", "stock"],
    ["migrate", "--no-input"],
    ["migrate", "--no-input", "--database", "other"],
    ["createsuperuser", "--no-input", "--username", "admin", "--email", "admin@shop.example"],
    ["shell", "-c", "from django.contrib.auth.models import User; print(User.objects.count())"],
    ["test", "--no-input", "stock"],
)
TESTS = """
from django.test import TestCase

from azsession import ConfigurationError, Message
from azsession.contrib.django import send_on_commit

from .models import Item


class ItemTest(TestCase):
    def test_create(self):
        Item.objects.create(name="tea")
        self.assertEqual(Item.objects.count(), 1)

    def test_send(self):
        with self.assertRaisesMessage(ConfigurationError, "is empty"):
            send_on_commit("q", Message("x", session_id="s"))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path / "project", TESTS)


def test_commands_that_need_no_broker_run_without_one(project: Path) -> None:
    environ = environment(DJANGO_SUPERUSER_PASSWORD="of a test")
    for command in COMMANDS:
        ended = manage(*command, environ=environ, project=project)
        if command == ["check"]:
            assert "(azsession.W001) AZSESSION['CONNECTION_STRING'] is empty" in ended.stderr
        if command[0] == "shell":
            assert ended.stdout.splitlines()[-1] == "1"
        if command[0] == "test":
            assert "Ran 2 tests" in ended.stderr


def test_the_consumer_fails_without_a_broker(project: Path) -> None:
    ended = manage("azsession_consume", "q", "json.loads", environ=environment(), project=project, status=1)
    assert ended.stderr.splitlines()[-1].startswith("CommandError: AZSESSION['CONNECTION_STRING'] is empty")
    assert "Traceback" not in ended.stderr


def test_a_malformed_setting_still_stops_commands(project: Path) -> None:
    ended = manage("migrate", environ=environment(STOCK_BROKER="Endpoint"), project=project, status=1)
    assert "(azsession.E003)" in ended.stderr
