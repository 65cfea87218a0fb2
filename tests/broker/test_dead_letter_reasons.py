"""How dead letters are counted."""

from __future__ import annotations

import pytest

from azsession.broker.dead_letter_reasons import COUNTED, counted_as


@pytest.mark.parametrize("reason", [None, "", "why", "maxdeliverycountexceeded", "other"])
def test_texts_of_applications_are_counted_together(reason: str | None) -> None:
    assert counted_as(reason) == "other"


def test_the_reasons_of_brokers_are_counted_by_themselves() -> None:
    assert [counted_as(reason) for reason in COUNTED] == list(COUNTED)
