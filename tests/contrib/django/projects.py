"""Runs Django projects, by default the example, as separate processes: with `manage.py`, or in gunicorn."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ...support.paths import ROOT
from ...support.processes import environment, run_python
from ..running import Running

EXAMPLE = ROOT / "examples" / "django_project"


def surroundings(connection_string: str | None, database: Path, **more: str) -> dict[str, str]:
    """Return the environment of a project's process, in which Python shows all warnings."""
    paths = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return environment(
        connection_string,
        SHOP_DATABASE=str(database),
        PYTHONPATH=os.pathsep.join(path for path in paths if path),
        PYTHONWARNINGS="default",
        PYTHONFAULTHANDLER="1",
        PYTHONDONTWRITEBYTECODE="1",
        **more,
    )


def manage(
    *arguments: str, environ: dict[str, str], project: Path = EXAMPLE, status: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run a command of a project to its end, and check its exit status."""
    ended = run_python(str(project / "manage.py"), *arguments, environ=environ, is_quiet=False)
    assert ended.returncode == status, ended.stderr
    return ended


def start(arguments: list[str], environ: dict[str, str], folder: Path) -> Running:
    """Start Python in the example project. Its output goes to files in `folder`."""
    return Running([sys.executable, *arguments], environ, folder, cwd=EXAMPLE)


def gunicorn(environ: dict[str, str], place: Path, *more: str) -> Running:
    """Start gunicorn with the example: three workers with eight threads each, forked from a process that has loaded it."""
    # All instances of gunicorn on a machine share one control socket. In a file, older versions ignore the option.
    config = place / "gunicorn.conf.py"
    config.write_text("control_socket_disable = True\n")
    many = ("--preload", "--workers", "3", "--threads", "8")
    bound = ("--config", str(config), "--bind", "127.0.0.1:0", "--graceful-timeout", "10")
    return start(["-m", "gunicorn", *many, *bound, *more, "shop.wsgi"], environ, place)


_SETTINGS = """
import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent
SECRET_KEY = "of a test"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "azsession.contrib.django", "stock"]
AZSESSION = os.environ.get("STOCK_BROKER", "")
DATABASES = {
    name: {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": BASE_DIR / f"{name}.sqlite3",
        "TEST": {"NAME": BASE_DIR / f"test_{name}.sqlite3"},
    }
    for name in ("default", "other")
}
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
"""

_MODELS = """
from django.db import models


class Item(models.Model):
    name = models.CharField(max_length=50)
"""


def make_project(folder: Path, tests: str = "") -> Path:
    """Make a project with one app, one model, two databases in files, and no broker.

    Args:
        folder: The project's folder.
        tests: The module of the app's tests.
    """
    app = folder / "stock"
    app.mkdir(parents=True)
    (app / "__init__.py").touch()
    (app / "models.py").write_text(_MODELS)
    (app / "tests.py").write_text(tests)
    (folder / "settings.py").write_text(_SETTINGS)
    (folder / "manage.py").write_text((EXAMPLE / "manage.py").read_text().replace("shop.settings", "settings"))
    return folder
