"""Folders of the repository that tests read."""

from __future__ import annotations

from pathlib import Path

#: The repository's root: the folder that has setup.cfg.
ROOT = Path(__file__).parents[2]
