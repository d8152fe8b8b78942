"""Random streams: no two draw the same numbers."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cifarcnn.training.streams import Stream, generator


@given(st.integers(0, 2**31 - 1))
def test_no_two_streams_of_a_training_are_the_same(seed: int) -> None:
    """Orders, shifts, flips, jitter, dropout layers and initial weights, of many epochs and of two seeds."""
    keys = itertools.product((seed, seed ^ 1), Stream, range(12))
    states = {tuple(generator(*key).bit_generator.state["state"].values()) for key in keys}
    assert len(states) == 2 * len(Stream) * 12


def test_a_stream_is_its_own_on_every_machine() -> None:
    """A resumed run, on another day, draws what it would have drawn."""
    assert generator(0, Stream.ORDER, 5).integers(0, 1000, 4).tolist() == [319, 287, 21, 993]
    assert not np.array_equal(generator(3, Stream.FLIP).random(4), generator(3, Stream.FLIP, 1).random(4))
