"""`Reentry`: the marks of threads that are inside certain methods, and the search of the stack."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

from azsession.reentry import Reentry, is_method_in


def test_only_the_outermost_of_two_calls_gets_the_mark() -> None:
    reentry = Reentry()
    assert [reentry.mark(), reentry.mark()] == [True, False]
    reentry.unmark()
    assert reentry.mark()


def test_a_mark_is_of_its_thread() -> None:
    reentry = Reentry()
    assert reentry.mark()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(reentry.mark).result()


class _Owner:
    def call(self, other: object) -> tuple[bool, bool]:
        return self.inner(other)

    def inner(self, other: object) -> tuple[bool, bool]:
        codes = {_Owner.call.__code__}
        return is_method_in(sys._getframe(), self, codes), is_method_in(sys._getframe(), other, codes)


def test_a_method_is_found_in_the_stack_only_for_its_own_object() -> None:
    owner = _Owner()
    assert owner.call(_Owner()) == (True, False)
    assert owner.inner(owner) == (False, False)
