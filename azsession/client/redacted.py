"""`Redacted`: secret text that error reports do not show.

Tools that report errors show the `repr` of the local variables in each frame. The client keeps lock tokens, and the paths
that contain them, in this type.
"""

from __future__ import annotations


class Redacted(str):
    """A `str` whose `repr` hides its text."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<redacted>"
