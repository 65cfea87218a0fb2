"""The application, as ``INSTALLED_APPS`` knows it."""

from django.apps import AppConfig
from django.core import checks


class AzsessionConfig(AppConfig):
    name = "azsession.contrib.django"
    label = "azsession"
    verbose_name = "azsession"

    def ready(self) -> None:
        from .checks import check_setting

        checks.register(check_setting)
