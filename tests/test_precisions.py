"""Inference in bfloat16 beside float32."""

import numpy as np
import pytest

import models
from cifarcnn.errors import UsageError
from cifarcnn.evaluation import precisions
from cifarcnn.events import Event, Note, ignore
from cifarcnn.machine import backend, devices
from cifarcnn.models import modelfile, pretrained


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> modelfile.Model:
    """A model that tells images apart."""
    return modelfile.load(models.save_tiny(tmp_path_factory.mktemp("model") / "tiny.keras"))


def processor(*flags: str) -> devices.Hardware:
    return devices.Hardware("tensorflow", "Some CPU", 2, frozenset(flags))


def test_a_processor_with_bfloat16_gets_a_copy(
    model: modelfile.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It computes in bfloat16, answers nearly the same, and leaves the model as it was."""
    monkeypatch.setattr(backend, "hardware", lambda: processor("avx512_bf16"))
    lower = precisions.lower(model, "auto", ignore)
    assert lower is not None
    policies = [layer.compute_dtype for layer in lower.keras.layers]
    assert policies == ["float32", "bfloat16", "bfloat16", "float32"]
    assert {layer.compute_dtype for layer in model.keras.layers} == {"float32"}
    exact, rounded = (each.probabilities(models.pixels(20)) for each in (model, lower))
    assert rounded.dtype == np.float32
    assert (exact != rounded).any()
    np.testing.assert_allclose(exact, rounded, atol=0.05)


def test_others_stay_in_float32_and_say_why(model: modelfile.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the processor nor a LiteRT model can; float32 says nothing."""
    told: list[Event] = []
    monkeypatch.setattr(backend, "hardware", processor)
    assert precisions.lower(model, "auto", told.append) is None
    assert precisions.lower(modelfile.load(pretrained.PATH), "auto", told.append) is None
    assert precisions.lower(model, "float32", told.append) is None
    assert [note.text for note in told if isinstance(note, Note)] == [
        "precision: float32 (Some CPU, 2 cores; float32: the CPU does not compute bfloat16 natively)",
        "precision: float32 (pretrained is a LiteRT model; only Keras models have others)",
    ]
    with pytest.raises(UsageError, match="--precision is 'half'; expected one of float32, auto"):
        precisions.lower(model, "half", ignore)  # type: ignore[arg-type]


def test_differing_predictions_are_counted() -> None:
    """The note tells how many of how many differ."""
    assert precisions.difference(3, 10_000).text == (
        "3 of 10,000 predictions differ between bfloat16 and float32"
    )
