"""Numbers as people read them."""

import pytest

from cifarcnn import formatting


@pytest.mark.parametrize(
    ("seconds", "text"), [(33.4, "33 s"), (99.4, "99 s"), (100, "1.7 min"), (983, "16.4 min")]
)
def test_durations(seconds: float, text: str) -> None:
    """Seconds below a hundred, then minutes."""
    assert formatting.duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 cores"), (1, "1 core"), (2, "2 cores"), (1234, "1,234 cores")]
)
def test_one_of_a_kind_is_no_plural(number: int, text: str) -> None:
    """All other numbers are."""
    assert formatting.count(number, "core") == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0.0%"), (1e-9, "<0.1%"), (0.5, "50.0%"), (0.9999, ">99.9%"), (1.0, "100.0%")],
)
def test_a_short_percentage_is_never_rounded_to_certainty(share: float, text: str) -> None:
    """Neither to the impossible."""
    assert formatting.short_percent(share) == text


def test_a_share_is_shown_in_percent() -> None:
    """With as many decimals as wanted."""
    assert (formatting.percent(0.83504), formatting.percent(0.83504, 1)) == ("83.50%", "83.5%")
