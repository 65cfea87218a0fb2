"""The application for ``INSTALLED_APPS``."""

from django.apps import AppConfig
from django.core import checks


class AzsessionConfig(AppConfig):
    """Registers the system check."""

    name = "azsession.contrib.django"
    label = "azsession"
    verbose_name = "azsession"

    def ready(self) -> None:
        """Register the system check, once Django is ready to import it."""
        from .checks import check_setting

        checks.register(check_setting)
