"""What runs exported models, each behind one small class, and the first questions that they are asked.

Every class takes raw pixels of shape (n, 32, 32, 3) and answers with probabilities (n, 10), as a Keras model
does, so that ``modelfile.Model`` asks all of them alike. What they are given has passed
``exported``; they refuse here what has other inputs or outputs than an image classifier of ours.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cifarcnn.errors import ModelError
from cifarcnn.machine import backend, devices
from cifarcnn.metrics import Array
from cifarcnn.models import trial
from cifarcnn.wording import count


class Runtime(Protocol):
    """An exported model, opened."""

    def predict_on_batch(self, images: Array) -> Array:
        """Take pixels (n, 32, 32, 3), 0-255; return float32 probabilities (n, 10)."""
        ...

    def inference(self) -> str:
        """Say in a few words what computes, and in which arithmetic."""
        ...


class LiteRT:
    """A ``.tflite`` model."""

    def __init__(self, path: str, data: bytes) -> None:
        """Open the model.

        Raises:
            ModelError: its input or output is not that of a CIFAR-10 classifier.
            ValueError, RuntimeError: LiteRT cannot open it.
        """
        from ai_edge_litert import interpreter

        self.cpus = devices.usable_cpus()
        self.interpreter = interpreter.Interpreter(model_content=data, num_threads=self.cpus)
        ends = (self.interpreter.get_input_details(), self.interpreter.get_output_details())
        kinds = [[(end["dtype"].__name__, tuple(end["shape"].tolist())[1:]) for end in side] for side in ends]
        _check_ends(path, kinds, "float32")
        self.input, self.output = ends[0][0]["index"], ends[1][0]["index"]
        self.batch = 0

    def predict_on_batch(self, images: Array) -> Array:
        """Take pixels (n, 32, 32, 3), 0-255; return float32 probabilities (n, 10)."""
        if len(images) != self.batch:
            with backend.quiet_stderr():
                self.interpreter.resize_tensor_input(self.input, list(images.shape))
                self.interpreter.allocate_tensors()  # says how it computes
            self.batch = len(images)
        self.interpreter.set_tensor(self.input, images.astype(np.float32))
        self.interpreter.invoke()
        answers: Array = self.interpreter.get_tensor(self.output)
        return answers

    def inference(self) -> str:
        """Say what computes."""
        return f"LiteRT, {count(self.cpus, 'core')}, float32"


class Onnx:
    """An ``.onnx`` model."""

    def __init__(self, path: str, data: bytes) -> None:
        """Open the model.

        Raises:
            ModelError: its input or output is not that of a CIFAR-10 classifier, or ONNX Runtime is missing.
            RuntimeError, ValueError: ONNX Runtime cannot open it.
        """
        onnxruntime = import_onnx("onnxruntime")
        self.cpus = devices.usable_cpus()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.cpus
        options.log_severity_level = 4
        try:
            self.session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        # ONNX Runtime's errors share no class but Exception; they are all about the model.
        except Exception as problem:
            raise RuntimeError(str(problem)) from problem
        ends = (self.session.get_inputs(), self.session.get_outputs())
        kinds = [[(end.type, tuple(end.shape or ())[1:]) for end in side] for side in ends]
        _check_ends(path, kinds, "tensor(float)")
        self.input, self.output = ends[0][0].name, ends[1][0].name

    def predict_on_batch(self, images: Array) -> Array:
        """Take pixels (n, 32, 32, 3), 0-255; return float32 probabilities (n, 10)."""
        try:
            (answers,) = self.session.run([self.output], {self.input: images.astype(np.float32)})
        except Exception as problem:  # as above
            raise RuntimeError(str(problem)) from problem
        return np.asarray(answers)

    def inference(self) -> str:
        """Say what computes."""
        return f"ONNX Runtime, {count(self.cpus, 'core')}, float32"


class SavedModel:
    """A TensorFlow SavedModel directory."""

    def __init__(self, path: str, directory: Path) -> None:
        """Open the model in ``directory``, to which nobody else can write.

        Raises:
            ModelError: its input or output is not that of a CIFAR-10 classifier.
            RuntimeError: TensorFlow cannot open it.
        """
        backend.load()
        import tensorflow as tf

        try:
            self.loaded = tf.saved_model.load(str(directory))
            self.function = self.loaded.signatures["serving_default"]
        # TensorFlow's own errors share no class but Exception; they are all about the model.
        except Exception as problem:
            raise RuntimeError(str(problem)) from problem
        inputs, outputs = self.function.structured_input_signature[1], self.function.structured_outputs
        ends = (inputs.values(), outputs.values())
        kinds = [[(spec.dtype.name, tuple(spec.shape)[1:]) for spec in side] for side in ends]
        _check_ends(path, kinds, "float32")
        (self.input,), (self.output,) = inputs, outputs

    def predict_on_batch(self, images: Array) -> Array:
        """Take pixels (n, 32, 32, 3), 0-255; return float32 probabilities (n, 10)."""
        import tensorflow as tf

        try:
            answers = self.function(**{self.input: tf.constant(images, tf.float32)})
        except Exception as problem:  # as above
            raise RuntimeError(str(problem)) from problem
        found: Array = answers[self.output].numpy()
        return found

    def inference(self) -> str:
        """Say what computes."""
        return f"TensorFlow, {count(devices.usable_cpus(), 'core')}, float32"


OF_FILES: dict[str, Callable[[str, bytes], Runtime]] = {"litert": LiteRT, "onnx": Onnx}
"""What opens the formats that are one file, by their names."""


def import_onnx(name: str) -> Any:
    """Import a module that the extra ``onnx`` installs.

    Raises:
        ModelError: it is not installed.
    """
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as problem:
        raise ModelError(
            f"ONNX models need {name}, which is not installed; mend: pip install 'cifarcnn[onnx]'"
        ) from problem


def check_answers(path: str, runtime: Runtime, most_images: int) -> None:
    """Ask an opened model about random images, few and many, and refuse answers that are no probabilities.

    Raises:
        ModelError: the answers are of a wrong shape, no probabilities, or depend on the other images.
        RuntimeError, ValueError: the runtime cannot compute them.
    """
    probe = trial.images(most_images)
    few = trial.SMALLEST_BATCH
    rows = np.asarray(runtime.predict_on_batch(probe[:few]))
    if rows.shape != (few, 10) or rows.dtype != np.float32:
        raise ModelError(
            f"the model {path} answers {few} images with {rows.dtype} {rows.shape}; expected "
            f"float32 ({few}, 10)"
        )
    trial.check_probabilities(path, rows)
    many = np.asarray(runtime.predict_on_batch(probe[::-1]))
    if many.shape != (most_images, 10) or not np.allclose(many[::-1][:few], rows, atol=1e-3):
        raise ModelError(f"the model {path} answers an image otherwise in another batch; not opened")


def _check_ends(path: str, ends: list[list[Any]], number: str) -> None:
    """Refuse a model of several inputs or outputs, or of another kind of number or shape per image."""
    for what, found, shape in zip(("takes", "puts out"), ends, ((32, 32, 3), (10,)), strict=True):
        if found != [(number, shape)]:
            shown = ", ".join(f"{kind} {shape}" for kind, shape in found[:3]) or "nothing"
            raise ModelError(
                f"the model {path} {what} {shown} per image; expected {number} {shape}, and one tensor"
            )
