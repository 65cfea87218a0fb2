"""The system check of ``manage.py check``. It makes no connection."""

from __future__ import annotations

from typing import Any

from django.core import checks

from ..provider_setting import ProblemCode
from .setting import NAME, read_setting


def check_setting(app_configs: Any = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """Return the mistakes in ``AZSESSION`` as errors, with the ids ``azsession.E001`` and following.

    A setting that does not say where the messages are is only a warning, ``azsession.W001``: ``migrate`` needs no messages.
    """
    return [
        (checks.Warning if problem.code is ProblemCode.NO_PLACE else checks.Error)(
            problem.text, hint=problem.hint, obj=f"settings.{NAME}", id=f"azsession.{problem.code.value}"
        )
        for problem in read_setting().all_problems()
    ]
