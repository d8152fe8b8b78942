"""The contestants that run on TensorFlow: one measurement per process, printed as a line of JSON.

``keras`` is Keras as the author of a published notebook writes it; ``ours`` is ``cifarcnn.train``, the
function behind ``cifarcnn train``, watched from outside through its events. ``ceiling`` and ``idle`` say what
the machine and an idle process come to, and ``describe`` counts a network's operations. The benchmarks start
this file; its arguments are a contestant and a JSON object.
"""

import json
import sys
import tempfile
import time
from typing import Any

import numpy as np

import harness

CEILING_BATCH = 128
CEILING_REPEATS = 30


def describe(spec: dict[str, Any]) -> dict[str, Any]:
    """Return a network's layers, parameters and floating-point operations per image.

    Training computes each layer three times: forwards, and the gradients of its weights and of its input.
    The first layer's input gradient is never needed, and is not counted.
    """
    from cifarcnn import architectures
    from cifarcnn.machine import backend
    from cifarcnn.models import summaries

    backend.load()
    add_width(spec)
    settings, variant = _classic(spec["arch"])
    network = architectures.build(spec["arch"], variant)
    summary = summaries.describe(network, spec["arch"])
    flops = [layer.flops for layer in summary.layers if layer.flops]
    return {
        "layers": json.loads(network.to_json())["config"]["layers"],
        "params": summary.params,
        "forward_flops": sum(flops),
        "training_flops": 3 * sum(flops) - flops[0],
        "optimizer": settings.optimizer,
        "learning_rate": settings.learning_rate,
        "momentum": settings.momentum,
        "versions": {"python": sys.version.split()[0], **backend.versions()},
    }


def idle(_: dict[str, Any]) -> dict[str, Any]:
    """Return the memory of a process that has imported TensorFlow and Keras and computed one sum."""
    from cifarcnn.machine import backend

    backend.load()
    import tensorflow as tf

    float(tf.reduce_sum(tf.ones(8)))
    return {"peak_memory": harness.peak_memory()}


def ceiling(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the FLOP/s of a convolution of 64 channels to 64, 3x3, on 128 maps of 32x32."""
    from cifarcnn.machine import backend, devices

    choice = devices.choose(backend.hardware(), "cpu")
    import tensorflow as tf

    convolve = tf.function(lambda maps, kernel: tf.nn.conv2d(maps, kernel, 1, "SAME"))
    flops = 2 * CEILING_BATCH * 32 * 32 * 9 * 64 * 64
    speeds = {}
    with backend.running_on(choice, spec["cpus"]):
        for dtype in ("float32", "bfloat16"):
            maps = tf.cast(tf.random.normal((CEILING_BATCH, 32, 32, 64)), dtype)
            kernel = tf.cast(tf.random.normal((3, 3, 64, 64)), dtype)
            times = []
            for _ in range(CEILING_REPEATS):
                started = time.perf_counter()
                convolve(maps, kernel)
                times.append(time.perf_counter() - started)
            # The first calls trace, choose the kernel and touch memory for the first time.
            speeds[dtype] = flops / float(np.median(times[5:]))
    return {"flops_per_second": speeds}


def keras(spec: dict[str, Any]) -> dict[str, Any]:
    """Time Keras as written: float32 arrays, ``compile`` and ``fit`` with their defaults, no augmentation."""
    import keras

    from cifarcnn import architectures

    settings, variant = _classic(spec["arch"])
    model = architectures.build(spec["arch"], variant)
    model.compile(
        optimizer=keras.optimizers.SGD(settings.learning_rate, momentum=settings.momentum)
        if settings.optimizer == "sgd"
        else keras.optimizers.RMSprop(settings.learning_rate),
        loss="categorical_crossentropy",
        metrics=["accuracy"],
    )
    count, batch = spec["steps"] * spec["batch_size"], spec["batch_size"]
    images = np.load(spec["images"])[:count].astype("float32")
    labels = keras.utils.to_categorical(np.load(spec["labels"])[:count], 10)

    class Clock(keras.callbacks.Callback):
        """Notes when each step ends."""

        def __init__(self) -> None:
            super().__init__()
            self.ends: list[float] = []

        def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002
            self.ends.append(time.perf_counter())

    warm = spec["warmup"] * batch
    model.fit(images[:warm], labels[:warm], batch_size=batch, shuffle=True, verbose=0)
    clock = Clock()
    started = time.perf_counter()
    model.fit(images, labels, batch_size=batch, shuffle=True, verbose=0, callbacks=[clock])
    seconds = time.perf_counter() - started
    peak = harness.peak_memory()
    return {
        "images_per_second": (len(clock.ends) - 1) * batch / (clock.ends[-1] - clock.ends[0]),
        "epoch_images_per_second": count / seconds,
        "peak_memory": peak,
        "precision": "float32",
        "jit_compile": model.jit_compile,
        "predict_images_per_second": _inference(
            lambda pixels: model.predict(pixels, verbose=0), spec, "float32", 64
        ),
    }


def ours(spec: dict[str, Any]) -> dict[str, Any]:
    """Time ``cifarcnn.train``, augmentation and metrics included, in the precision that it chooses."""
    import cifarcnn
    from cifarcnn import events

    add_width(spec)
    steps: list[tuple[int, int, float]] = []
    epochs: list[events.EpochDone] = []

    def watch(event: events.Event) -> None:
        if isinstance(event, events.StepsDone):
            steps.append((event.epoch, event.step, time.perf_counter()))
        elif isinstance(event, events.EpochDone):
            epochs.append(event)

    count = spec["steps"] * spec["batch_size"]
    with tempfile.TemporaryDirectory() as out:
        started = time.perf_counter()
        result = cifarcnn.train(
            out=out,
            data=spec["data"],
            on_event=watch,
            arch=spec["arch"],
            recipe="classic",
            epochs=spec["epochs"],
            batch_size=spec["batch_size"],
            augment="standard",
            train_size=count,
            val_size=0,
            device="cpu",
        )
        peak = harness.peak_memory()
        model = cifarcnn.load_model(result.model)
    last = [(step, at) for epoch, step, at in steps if epoch == spec["epochs"]]
    (first_step, first_at), (last_step, last_at) = last[0], last[-1]
    images = (last_step - first_step) * spec["batch_size"]
    return {
        # A few steps are made in one call, and then there is nothing between two to be timed.
        "images_per_second": images / (last_at - first_at) if images else None,
        "epoch_images_per_second": count / epochs[-1].seconds,
        "peak_memory": peak,
        "precision": result.precision.removeprefix("mixed_"),
        "first_step_seconds": steps[0][2] - started,
        "predict_images_per_second": _inference(model.probabilities, spec, "uint8", 500),
    }


def _classic(arch: str) -> tuple[Any, Any]:
    """Return the settings and the variant of the recipe that all contestants train by."""
    from cifarcnn import architectures, config

    settings = config.resolve({"arch": arch, "recipe": "classic"})
    return settings, architectures.Variant(settings.normalize, settings.batch_norm_momentum, settings.dropout)


def _inference(answer: Any, spec: dict[str, Any], dtype: str, warm: int) -> float | None:
    """Return images per second of one pass; the first call on ``warm`` images compiles and is not timed."""
    if not spec["predict_images"]:
        return None
    images = np.load(spec["images"])[: spec["predict_images"]].astype(dtype)
    answer(images[:warm])
    started = time.perf_counter()
    answer(images)
    return len(images) / (time.perf_counter() - started)


def add_width(spec: dict[str, Any]) -> None:
    """Put a network with other widths into the tables, in this process, and name it in ``spec``."""
    from cifarcnn import architectures, recipes

    factor = spec.get("width", 1)
    if factor == 1:
        return
    base = architectures.find(spec["arch"])
    name = f"{base.name}-width{factor:g}"

    def scaled(*filters: int) -> list[int]:
        return [round(factor * number) for number in filters]

    if base.name == "vgg2":
        blocks = list(zip(scaled(32, 64), (0.25, 0.35), strict=True))
        build = architectures.vgg(name, blocks, norms_per_block=1, head_dropout=None)
    elif base.name == "vgg3":
        blocks = list(zip(scaled(32, 64, 128), (0.2, 0.3, 0.4), strict=True))
        build = architectures.vgg(name, blocks, norms_per_block=2, head_dropout=0.5)
    elif base.name == "plain6":
        build = architectures.plain(name, scaled(32, 64, 64))
    else:
        sys.exit(f"widths are scaled of vgg2, vgg3 and plain6, not of {base.name}")
    row = architectures.Architecture(name, build, 0, f"{base.name} with {factor:g} times the filters", "")
    architectures.ARCHITECTURES = (*architectures.ARCHITECTURES, row)
    recipes.RECIPES = {**recipes.RECIPES, "classic": {name: recipes.recipes_for(base.name)["classic"]}}
    spec["arch"] = name


def main() -> None:
    """Run the contestant that the arguments name."""
    kinds = {"describe": describe, "idle": idle, "ceiling": ceiling, "keras": keras, "ours": ours}
    print(json.dumps(kinds[sys.argv[1]](json.loads(sys.argv[2]))))


if __name__ == "__main__":
    main()
