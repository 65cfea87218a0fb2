"""The application in ``INSTALLED_APPS``."""

from __future__ import annotations

from django.apps import apps
from django.core.checks.registry import registry

from azsession.contrib.django.checks import check_setting


def test_the_application_registers_the_system_check() -> None:
    assert apps.get_app_config("azsession").name == "azsession.contrib.django"
    assert check_setting in registry.registered_checks
