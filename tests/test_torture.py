"""The torture script in short: killed anywhere, saves included, a run ends as it would have."""

from pathlib import Path

import pytest

from torture import torture

ARGUMENTS = ["--arch", "vgg2", "--train-size", "150", "--val-size", "50", "--batch-size", "25"]


@pytest.mark.slow
def test_a_run_survives_kills_bit_for_bit(tmp_path: Path, data_directory: Path) -> None:
    """Two kills at random instants, with every save drawn out."""
    arguments = [*ARGUMENTS, "--epochs", "7", "--data", str(data_directory)]
    result = torture(tmp_path, arguments, 2, slow_saves=True, seed=2)
    assert result.kills == 2
    assert result.differing == ()
    assert result.damaged == ()
