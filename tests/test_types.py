from __future__ import annotations

from moeseg.types import single_subsets


def test_joins_fall_into_their_parts_once_and_in_order() -> None:
    assert single_subsets("urban + highway", "urban", "ambiguous+highway") == (
        "urban",
        "highway",
        "ambiguous",
    )
    assert single_subsets() == ()
