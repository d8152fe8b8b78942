"""Marks for pictures that probably show none of the ten classes."""

import math
from pathlib import Path

import numpy as np
import pytest

import fakes
from cifarcnn import metrics
from cifarcnn.errors import ModelError
from cifarcnn.evaluation import ood
from cifarcnn.prediction import predict as prediction
from cifarcnn.prediction.predict import Prediction
from test_prediction import picture

MODEL = Path("m.keras")


def test_scores_are_relative_entropy() -> None:
    """Certainty scores 0, ten equal classes 1, two equal ones the logarithm of two to the base ten."""
    rows = np.stack([np.eye(10)[3], np.full(10, 0.1), np.repeat([0.5, 0], [2, 8])])
    np.testing.assert_allclose(ood.scores(rows), [0, 1, math.log10(2)], atol=1e-12)
    assert str(ood.scores(rows.astype(np.float32))[0]) == "0.0"


def test_the_limit_marks_five_percent() -> None:
    """Of the images it is fitted to, one in twenty lies above it."""
    rows = metrics.softmax(np.random.default_rng(0).normal(0, 2, (5000, 10)))
    assert (ood.scores(rows) > ood.fit_limit(rows)).mean() == pytest.approx(0.05, abs=0.001)


def test_the_limit_is_read_from_metadata() -> None:
    """A model without one has none; a foreign file's nonsense is refused in one line."""
    assert ood.limit({}, MODEL) is None
    assert ood.limit({ood.KEY: 0}, MODEL) == 0.0
    for wrong in ("high", True, math.nan, math.inf, [0.5], 10**400):
        with pytest.raises(ModelError, match=r"has the none_threshold .*; expected a number") as caught:
            ood.limit({ood.KEY: wrong}, MODEL)
        assert len(str(caught.value)) < 200


def test_predictions_are_marked(tmp_path: Path) -> None:
    """Above the limit the mark is true, below false, without a limit there is none."""
    path = picture(tmp_path / "p.png")
    found = {}
    for limit in (0.0, 1.0, None):
        model = fakes.corner() if limit is None else fakes.corner(none_threshold=limit)
        (answer,) = prediction.predict([path], model=model)
        assert isinstance(answer, Prediction)
        assert 0 < answer.ood_score < 1
        found[limit] = answer.is_ood
    assert found == {0.0: True, 1.0: False, None: None}
