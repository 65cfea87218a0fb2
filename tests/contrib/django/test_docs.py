"""docs/django.md: its Python runs in a new project, and its tables are complete."""

from __future__ import annotations

import re
import shlex
from argparse import ArgumentParser
from pathlib import Path

import pytest
from django.core.management import call_command

from azsession.contrib.django.management.commands.azsession_consume import Command
from azsession.contrib.django.setting import STYLE
from azsession.contrib.provider_setting import ProblemCode
from azsession.testing import AzsessionServer

from ...support.paths import ROOT
from ...support.processes import run_python
from .projects import manage, surroundings

PAGE = (ROOT / "docs" / "django.md").read_text(encoding="utf-8")
BLOCKS = {
    block.split("\n")[0].removeprefix("# "): block
    for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
}

#: The addresses of the page's other views, and a command that uses all of them.
URLS = """
from django.urls import path
from shop import async_views, by_hand, views

urlpatterns = [path("place/", views.place), path("place-async/", async_views.place),
               path("take/", by_hand.take), path("settle/", by_hand.settle)]
"""
DRIVER = """
import time
from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.test import Client
from azsession.contrib.django import get_provider
from shop import by_hand
from shop.models import Order
from shop.processing import make_processor

class Command(BaseCommand):
    def handle(self, **options):
        call_command("migrate", verbosity=0)
        browser = Client()
        get_provider().create_queue("orders")
        assert browser.post("/take/").status_code == 204
        for way in ("place", "place-async"):
            order = browser.post(f"/{way}/", {"item": "tea"}).json()["order"]
            [message] = browser.post("/take/").json()["messages"]
            assert message["text"] == "placed"
            assert browser.post("/take/").status_code == 204
            receipt = {"receipt": message["receipt"]}
            assert browser.post("/settle/", receipt).status_code == 204
            assert browser.post("/settle/", {"receipt": "x"}).status_code == 410
            assert get_provider().list_sessions("orders") == []
        assert len(by_hand.handed_out) == 2
        order = browser.post("/place/", {"item": "coffee"}).json()["order"]
        with make_processor():
            deadline = time.monotonic() + 30
            while Order.objects.get(pk=order).status != "placed":
                assert time.monotonic() < deadline
                time.sleep(0.01)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A new project with an application and the files of the page."""
    call_command("startproject", "mysite", str(tmp_path))
    (tmp_path / "shop").mkdir()
    call_command("startapp", "shop", str(tmp_path / "shop"))
    settings = (tmp_path / "mysite/settings.py").read_text(encoding="utf-8")
    write(tmp_path, {**BLOCKS, "mysite/settings.py": settings + BLOCKS["mysite/settings.py"]})
    return tmp_path


def write(project: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def test_the_commands_of_the_quickstart_work(project: Path, azsession_server: AzsessionServer) -> None:
    environ = surroundings(azsession_server.connection_string, project / "none")
    [commands] = re.findall(r"^```sh\n(python manage.py .*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    # The last one would run until Ctrl-C.
    for line in f"{commands.rstrip()} --until-empty".splitlines():
        manage(*shlex.split(line)[2:], environ=environ, project=project)
    said = manage(
        "shell", "-c", "from shop.models import Order; print(Order.objects.get().status)", environ=environ, project=project
    )
    assert said.stdout.split()[-1] == "placed"


def test_the_code_of_the_page_runs(project: Path, azsession_server: AzsessionServer) -> None:
    settings = project / "mysite/settings.py"
    more = {"mysite/urls.py": URLS, "shop/management/commands/drive.py": DRIVER}
    write(project, {**more, "mysite/settings.py": settings.read_text(encoding="utf-8") + "ALLOWED_HOSTS = ['*']\n"})
    environ = surroundings(azsession_server.connection_string, project / "none")
    manage("makemigrations", "shop", "--verbosity", "0", environ=environ, project=project)
    tested = manage("test", "shop", "--settings", "mysite.settings_for_tests", environ=environ, project=project)
    assert "Ran 1 test" in tested.stderr
    # Django logs the two wrong receipts, which are refused with status 410.
    assert set(manage("drive", environ=environ, project=project).stderr.splitlines()) == {"Gone: /settle/"}


def test_the_fixture_for_pytest_gives_each_test_an_empty_broker(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(BLOCKS["conftest.py"])
    pytester.makepyfile("""
import pytest
from azsession import Message
from azsession.contrib.django import get_provider

@pytest.mark.parametrize("number", [1, 2])
def test_one(number, azsession_broker):
    assert get_provider() is azsession_broker
    assert get_provider().list_queues() == []
    get_provider().send_message("q", Message("x", session_id="s"))
""")
    pytester.runpytest_inprocess("-p", "no:randomly").assert_outcomes(passed=2)


def first_cells(below: str) -> list[str]:
    """Return the first column of the first table below a line."""
    table = PAGE.split(below, 1)[1].split("| --- |", 1)[1].split("\n\n", 1)[0]
    return re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)


def test_the_tables_list_all_settings_options_and_checks() -> None:
    assert sorted(first_cells("## Settings")) == sorted(STYLE.keys)
    parser = ArgumentParser(add_help=False)
    Command().add_arguments(parser)
    assert first_cells("## Consuming") == [each.option_strings[0] for each in parser._actions if each.option_strings]
    assert first_cells("No message holds a key") == [f"azsession.{code.value}" for code in ProblemCode]


def test_the_example_runs_with_the_command_in_its_docstring(tmp_path: Path) -> None:
    first_lines = (ROOT / "examples/django_project/manage.py").read_text(encoding="utf-8").splitlines()[:6]
    [command] = [line.split() for line in first_lines if line.startswith("    python ")]
    ended = run_python(*command[1:], environ=surroundings(None, tmp_path / "shop.sqlite3"))
    assert ended.stdout.splitlines() == [
        f"order {number}, {item}: paid, packed, shipped" for number, item in enumerate(("tea", "coffee", "cocoa"), 1)
    ]
