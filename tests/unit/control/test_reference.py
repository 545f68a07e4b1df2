"""The words of the release file's page."""

from __future__ import annotations

from fairlead.control.reference import release_page


def test_a_list_names_what_it_holds_and_then_their_bounds() -> None:
    assert "| list of integers from 1 to 65536 |" in release_page()
    assert "| list of objects |" in release_page()
