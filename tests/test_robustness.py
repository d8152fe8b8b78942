"""Evaluation on corrupted images: the function, the command and its picture."""

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from PIL import Image

import models
from cifarcnn.cli.evaluate import evaluate as command
from cifarcnn.errors import UsageError
from cifarcnn.evaluation import evaluate as evaluation
from cifarcnn.evaluation import robustness
from cifarcnn.evaluation.corruptions import CORRUPTIONS
from cifarcnn.events import Event, PicturesDone

pytestmark = pytest.mark.usefixtures("data_directory")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that tells images apart."""
    return models.save_tiny(tmp_path_factory.mktemp("model") / "tiny.keras", {"temperature": 2.0})


def test_means_are_those_of_the_scores(model: Path) -> None:
    """Every corruption at every severity asked for is measured once, and progress ends at the end."""
    told: list[Event] = []
    result = robustness.evaluate_corruptions(model, severities=(4, 1), limit=100, on_event=told.append)
    assert [(score.corruption, score.severity) for score in result.scores] == [
        (name, severity) for name in CORRUPTIONS for severity in (1, 4)
    ]
    accuracy, ece = result.mean(4)
    fours = [score for score in result.scores if score.severity == 4]
    assert accuracy == pytest.approx(sum(score.accuracy for score in fours) / len(CORRUPTIONS))
    assert ece == pytest.approx(sum(score.ece for score in fours) / len(CORRUPTIONS))
    done = [event for event in told if isinstance(event, PicturesDone)]
    assert done[-1].done == done[-1].total == 100 * (1 + 2 * len(CORRUPTIONS))
    again = robustness.evaluate_corruptions(str(model), severities=(1, 4), limit=100, batch_size=64)
    assert [score.accuracy for score in again.scores] == [score.accuracy for score in result.scores]


def test_clean_images_are_those_of_evaluate(model: Path) -> None:
    """Without a limit the clean figures are those that ``evaluate`` states."""
    whole = evaluation.evaluate(model)
    clean = robustness._score(*evaluation.load(model, "test", None, lambda _: None), None, 500)
    assert (clean.accuracy, clean.ece) == (whole.metrics.accuracy, whole.metrics.ece)


def test_command_prints_a_table_or_json_and_draws(model: Path, tmp_path: Path) -> None:
    """The picture is whole, and the document has what the table shows."""
    options = [str(model), "--corruptions", "--limit", "20", "--severity", "2", "--figures", str(tmp_path)]
    shown = CliRunner().invoke(command, options)
    assert shown.exit_code == 0, shown.output
    assert "jpeg compression" in shown.stdout
    assert "missing of CIFAR-10-C: frost" in shown.stdout
    with Image.open(tmp_path / "corruptions.png") as picture:
        picture.load()
    document = json.loads(CliRunner().invoke(command, [*options, "--json"]).stdout)
    assert document["n"] == 20
    assert document["missing"] == ["frost"]
    assert len(document["corruptions"]) == len(CORRUPTIONS)
    assert document["mean"]["accuracy"] == document["by_severity"][0]["accuracy"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--severity", "2"], "belong to --corruptions"),
        (["--corruptions", "--tta"], "cannot be given with --tta"),
    ],
)
def test_options_that_do_not_go_together(options: list[str], reason: str, model: Path) -> None:
    """Nothing is measured that was not asked for."""
    with pytest.raises(click.UsageError, match=reason):
        CliRunner().invoke(command, [str(model), *options], standalone_mode=False, catch_exceptions=False)


def test_severities_are_checked(model: Path) -> None:
    """The library says what it expects."""
    with pytest.raises(UsageError, match="--severity is 6; expected 1 to 5"):
        robustness.evaluate_corruptions(model, severities=(6,))
    with pytest.raises(UsageError, match="--limit is 0"):
        robustness.evaluate_corruptions(model, limit=0)
