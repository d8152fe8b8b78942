"""Learning rates: a table whose shape the schedule's name promises."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cifarcnn.config import FIELDS, Settings
from cifarcnn.training.schedules import explain_extension, learning_rates

NAMES = FIELDS["schedule"].metadata["choices"]


def rates(steps: int = 10, **changes: Any) -> np.ndarray:
    """The table of these settings."""
    return learning_rates(Settings(**{"epochs": 4, "learning_rate": 0.5, "warmup": 0.0, **changes}), steps)


@given(
    st.sampled_from(NAMES),
    st.integers(1, 30),
    st.integers(1, 50),
    st.floats(0, 0.9),
    st.floats(1e-6, 10),
    st.floats(0, 0.01),
)
def test_every_rate_is_between_zero_and_the_peak(
    schedule: str, epochs: int, steps: int, warmup: float, peak: float, decay: float
) -> None:
    """One float32 for each step, whatever the settings."""
    table = rates(steps, epochs=epochs, schedule=schedule, warmup=warmup, learning_rate=peak, decay=decay)
    assert table.shape == (epochs * steps,)
    assert table.dtype == np.float32
    assert (table >= 0).all()
    assert (table <= np.float32(peak) * (1 + 1e-6)).all()
    assert table.max() > 0


@pytest.mark.parametrize("schedule", [name for name in NAMES if name != "inverse-time"])
@pytest.mark.parametrize(("warmup", "rising"), [(0.25, 10), (0.26, 10), (0.29, 12)])
def test_warm_up_rises_in_equal_steps_to_the_peak(schedule: str, warmup: float, rising: int) -> None:
    """A quarter of 40 steps: 0.05, 0.1, ... 0.5; what is no whole number of steps is rounded."""
    table = rates(schedule=schedule, warmup=warmup)
    assert table[:rising] == pytest.approx(np.arange(1, rising + 1) * 0.5 / rising)
    assert table[rising] <= 0.5


def test_shapes() -> None:
    """The values at known places."""
    assert set(rates(schedule="constant")) == {0.5}
    step = rates(schedule="step")
    assert step[[0, 19, 20, 29, 30, 39]] == pytest.approx([0.5, 0.5, 0.05, 0.05, 0.005, 0.005])
    cosine = rates(schedule="cosine")
    assert cosine[[0, 20]] == pytest.approx([0.5, 0.25])
    assert (np.diff(cosine) < 0).all()
    cycle = rates(schedule="one-cycle", warmup=0.25)
    assert cycle.argmax() in (9, 10)
    assert np.diff(cycle[10:]) == pytest.approx(-0.5 / 30, rel=1e-5)
    inverse = rates(schedule="inverse-time", decay=0.1)
    assert inverse[[0, 10, 39]] == pytest.approx([0.5, 0.25, 0.5 / 4.9])


def test_extension_is_explained_by_the_tables() -> None:
    """What has no end goes on; what is laid out over all epochs changes, with both rates named."""
    for schedule, same in (
        ("constant", True),
        ("inverse-time", True),
        ("cosine", False),
        ("one-cycle", False),
    ):
        before = Settings(epochs=2, schedule=schedule, warmup=0.0, learning_rate=0.5)
        after = Settings(epochs=4, schedule=schedule, warmup=0.0, learning_rate=0.5)
        text = explain_extension(before, after, 10, 20)
        assert text.startswith(f"4 epochs instead of 2: the {schedule} schedule ")
        assert ("the result is that of 4 epochs from the start" in text) is same
        assert ("goes on at the rate 0.25 after" in text) is not same


def test_an_extension_that_spreads_the_sides_anew_is_told() -> None:
    """At the same rates, epochs on images of other sides make another result, as soon as they are begun."""
    before, after = (
        Settings(arch="whiten6-tiny", epochs=epochs, schedule="constant", warmup=0.0, sides="20,32")
        for epochs in (2, 4)
    )
    for done in (11, 15, 20):
        assert explain_extension(before, after, 10, done).endswith(
            "but the sides 20,32 are spread anew; the result is not that of 4 epochs from the start"
        )
    for done in (5, 10):
        assert "is that of 4 epochs" in explain_extension(before, after, 10, done)
