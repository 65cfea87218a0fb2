"""Secrets as they stand in frames: tools that report errors show the `repr` of every local variable they pass. The client
keeps lock tokens, and paths with them, in this form."""

from __future__ import annotations


class Hidden(str):
    """A text like any other, but for its `repr`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<hidden>"
