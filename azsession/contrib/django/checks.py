"""What `manage.py check` says about the setting. No check makes a connection."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core import checks

from .setting import NAME, read


def check_setting(app_configs: Any = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """Return what is wrong with ``AZSESSION``, as errors ``azsession.E001`` and on."""
    return [
        checks.Error(problem.text, hint=problem.hint, obj=f"settings.{NAME}", id=f"azsession.{problem.code}")
        for problem in read(getattr(settings, NAME, None)).problems
    ]
