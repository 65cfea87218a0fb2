"""The application for ``INSTALLED_APPS``."""

from typing import TYPE_CHECKING

from django.core import checks

if TYPE_CHECKING:
    # Django has no type annotations, so that a type checker knows nothing about a class that inherits from Django's.
    _AppConfig = object
else:
    from django.apps import AppConfig as _AppConfig


class AzsessionConfig(_AppConfig):
    """Registers the system check."""

    name: str = "azsession.contrib.django"
    label: str = "azsession"
    verbose_name: str = "azsession"

    def ready(self) -> None:
        """Register the system check, once Django is ready to import it."""
        from .checks import check_setting

        checks.register(check_setting)
