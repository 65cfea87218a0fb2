"""Reads the setting ``AZSESSION``. Used by `get_provider` and by the system checks."""

from __future__ import annotations

from django.conf import settings

from ..provider_setting import ProviderSetting, Style, read

#: The name of the setting.
NAME = "AZSESSION"
STYLE = Style(NAME, upper=True, ignores_empty_paths=False)


def read_setting() -> ProviderSetting:
    """Return the checked setting. Makes no connection and no credential."""
    return read(getattr(settings, NAME, None), STYLE)
