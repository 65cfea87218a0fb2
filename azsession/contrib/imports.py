"""Imports a function or a credential that a command line or a setting names. Used by all integrations."""

from __future__ import annotations

import importlib
from typing import Any


def import_object(path: str) -> Any:
    """Return the object at ``module:name`` or ``module.name``.

    After a colon, the name may have dots: ``module:Class.method``.

    Raises:
        ImportError: The path has neither form, or the import failed. The text names the path and the cause.
    """
    module_name, _, names = path.partition(":") if ":" in path else path.rpartition(".")
    if not module_name or not names:
        raise ImportError(f"{path!r} cannot be imported: it is not of the form module:name or module.name")
    try:
        found: Any = importlib.import_module(module_name)
        for name in names.split("."):
            found = getattr(found, name)
    except Exception as error:  # The module runs code of the user.
        raise ImportError(f"{path!r} cannot be imported: {type(error).__name__}: {error}") from error
    return found


def import_function(path: str) -> Any:
    """Return the function at ``module:name`` or ``module.name``.

    Raises:
        ImportError: The import failed, or the object cannot be called.
    """
    found = import_object(path)
    if not callable(found):
        raise ImportError(f"{path!r} must be a function, but it is of type {type(found).__name__}")
    return found
