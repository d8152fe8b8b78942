"""Train, evaluate, use and explain convolutional networks on CIFAR-10.

What the commands do, for programs::

    import cifarcnn

    run = cifarcnn.train(arch="vgg2")
    print(cifarcnn.evaluate(run.model).metrics.accuracy)

Importing the package imports neither TensorFlow nor Keras; the first function that needs them does.
"""

from importlib import import_module
from inspect import isfunction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cifarcnn.architectures import ARCHITECTURES as ARCHITECTURES
    from cifarcnn.architectures import build as build
    from cifarcnn.config import Settings as Settings
    from cifarcnn.data.cifar10 import CLASSES as CLASSES
    from cifarcnn.data.sources import load as load_images
    from cifarcnn.errors import CifarCNNError as CifarCNNError
    from cifarcnn.errors import Interrupted as Interrupted
    from cifarcnn.evaluation.evaluation import evaluate as evaluate
    from cifarcnn.models.exporting import export as export_model
    from cifarcnn.models.importing import import_model as import_model
    from cifarcnn.models.modelfile import load as load_model
    from cifarcnn.models.summaries import summarise as summarise
    from cifarcnn.prediction.picturefiles import Failure as Failure
    from cifarcnn.prediction.prediction import Prediction as Prediction
    from cifarcnn.prediction.prediction import predict as predict
    from cifarcnn.training.seeds import resume_seeds as resume_seeds
    from cifarcnn.training.seeds import train_seeds as train_seeds
    from cifarcnn.training.train import resume as resume
    from cifarcnn.training.train import train as train
    from cifarcnn.training.tune import tune as tune

_PUBLIC = {
    "ARCHITECTURES": "architectures:ARCHITECTURES",
    "CLASSES": "data.cifar10:CLASSES",
    "CifarCNNError": "errors:CifarCNNError",
    "Failure": "prediction.picturefiles:Failure",
    "Interrupted": "errors:Interrupted",
    "Prediction": "prediction.prediction:Prediction",
    "Settings": "config:Settings",
    "build": "architectures:build",
    "evaluate": "evaluation.evaluation:evaluate",
    "export_model": "models.exporting:export",
    "import_model": "models.importing:import_model",
    "load_images": "data.sources:load",
    "load_model": "models.modelfile:load",
    "predict": "prediction.prediction:predict",
    "resume": "training.train:resume",
    "resume_seeds": "training.seeds:resume_seeds",
    "summarise": "models.summaries:summarise",
    "train": "training.train:train",
    "train_seeds": "training.seeds:train_seeds",
    "tune": "training.tune:tune",
}
__all__ = sorted(_PUBLIC)  # noqa: PLE0605 - one list, not two


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used. Functions compute with our settings of Keras."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'cifarcnn' has no attribute {name!r}")
    module, attribute = _PUBLIC[name].split(":")
    found = getattr(import_module(f"cifarcnn.{module}"), attribute)
    if isfunction(found):
        from cifarcnn.machine.backend import keras_settings

        found = keras_settings()(found)
        found.__module__ = __name__  # where pickle finds it
    return globals().setdefault(name, found)


def __dir__() -> list[str]:
    return __all__
