"""`azsession celery-dispatch`: errors of its arguments."""

from __future__ import annotations

import pytest

from azsession._extras import install_command

from ..contrib.celery.workers import QUEUE
from ..support.processes import assert_one_line, run_here


def test_a_name_that_is_not_a_celery_app_is_one_line_of_error() -> None:
    assert_one_line(run_here("celery-dispatch", "-A", "nosuch.module", QUEUE), "'nosuch.module' cannot be imported")
    assert_one_line(run_here("celery-dispatch", "-A", "json:loads", QUEUE), "is not a Celery app")


def test_without_celery_the_command_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("azsession._extras.find_spec", lambda module: None)
    assert_one_line(run_here("celery-dispatch", "-A", "shop", QUEUE), install_command("celery"))
