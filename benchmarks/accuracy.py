"""Does the fast path cost accuracy? The same training by ``cifarcnn.train`` and by stock Keras in float32.

    python benchmarks/accuracy.py --arch vgg2 --seeds 3 --json accuracy.json

Both paths start from the same weights and see the same images, crops, targets and learning rates in the same
order; they differ in arithmetic, layers and dropout's draws. The networks of the last epoch are compared. All
trainings are done before any test image is read.
"""

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import cifarcnn
import harness
from cifarcnn import architectures, config, events
from cifarcnn.config import Settings
from cifarcnn.models import modelfile
from cifarcnn.recipes import RECIPES
from cifarcnn.training import augment, setup
from harness import say


def arguments() -> argparse.Namespace:
    """Read the command line."""
    names = [row.name for row in architectures.ARCHITECTURES]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--arch", nargs="+", choices=names, default=["vgg2", "vgg3"])
    parser.add_argument("--recipe", choices=tuple(RECIPES), default="fast")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 to N-1, at least 2")
    parser.add_argument("--epochs", type=int, help="default: the recipe's")
    parser.add_argument("--train-size", type=int, help="default: all but the validation images")
    parser.add_argument("--data", help="where CIFAR-10 is; default: where `cifarcnn train` finds it")
    parser.add_argument("--json", metavar="FILE|-", help="write everything measured; -: to stdout")
    given = parser.parse_args()
    if given.seeds < 2:
        parser.error("a spread needs at least two --seeds")
    return given


def train_stock(settings: Settings, data: str | None, path: Path) -> None:
    """Train the stock network by plain ``fit`` in float32, and save that of the last epoch."""
    import keras

    from cifarcnn.training import optimizer

    everything = cifarcnn.load_images("train", data=data)
    train, _ = setup.divide(everything, settings)
    smoothing = settings.label_smoothing
    truth = np.eye(10, dtype=np.float32)[train.labels]
    targets = truth * (1 - smoothing) + smoothing / 10
    steps = len(train) // settings.batch_size

    keras.utils.set_random_seed(settings.seed)
    variant = architectures.Variant(settings.normalize, settings.batch_norm_momentum, settings.dropout)
    network = architectures.build(settings.arch, variant)
    network.compile(
        optimizer=optimizer.make(settings, optimizer.learning_rates(settings, steps)),
        loss=keras.losses.CategoricalCrossentropy(),
        metrics=["accuracy"],
    )
    for epoch in range(settings.epochs):
        crops = augment.sample_epoch(settings, len(train), epoch)[: steps * settings.batch_size]
        history = network.fit(
            augment.cut(train.images, crops, settings.shift).astype(np.float32),
            targets[crops[:, 0]],
            batch_size=settings.batch_size,
            shuffle=False,
            verbose=0,
        )
        say(f"  epoch {epoch + 1}/{settings.epochs}: loss {history.history['loss'][0]:.4f}")
    # A file must hold no optimizer; the metadata let `evaluate` find the validation images again.
    plain = architectures.build(settings.arch, variant)
    plain.set_weights(network.get_weights())
    split = {"seed": settings.seed, "val_size": settings.val_size}
    facts = {"training_images_sha256": everything.sha256()}
    modelfile.save(plain, path, {"schema": 1, **split, "facts": facts})


def train_fast(settings: Settings, data: str | None, path: Path) -> None:
    """Train by the public function, in the precision that it chooses, and keep the last epoch's network."""

    def watch(event: events.Event) -> None:
        if isinstance(event, events.EpochDone):
            say(f"  epoch {event.epoch}/{event.epochs}: loss {event.loss:.4f}")
        elif isinstance(event, events.Note):
            say(f"  {event.text}")

    values = {**dataclasses.asdict(settings), "precision": "auto"}
    with tempfile.TemporaryDirectory() as out:
        result = cifarcnn.train(out=out, data=data, on_event=watch, **values)
        (result.run_dir / "last.keras").rename(path)


def settings_of(given: argparse.Namespace, arch: str, seed: int) -> Settings:
    """Resolve the recipe for the stock path."""
    said = {"arch": arch, "recipe": given.recipe, "epochs": given.epochs, "train_size": given.train_size}
    settings = config.resolve({**said, "seed": seed, "precision": "float32"})
    if architectures.find(arch).any_side:
        sys.exit(f"{arch} begins with weights that are worked out; the stock path does not; expected another")
    if settings.ema:
        sys.exit(f"the recipe of {arch} averages weights (ema); the stock path does not; expected ema 0")
    return settings


def compare(models: dict[str, list[Path]], data: str | None) -> dict[str, Any]:
    """Evaluate both paths' models, one per seed, and compare their accuracies."""
    outcome: dict[str, Any] = {}
    for split in ("validation", "test"):
        accuracies = {
            name: [cifarcnn.evaluate(path, split=split, data=data).metrics.accuracy for path in paths]
            for name, paths in models.items()
        }
        differences = [fast - stock for fast, stock in zip(*accuracies.values(), strict=True)]
        outcome[split] = {
            name: {"mean": statistics.mean(values), "std": statistics.stdev(values), "seeds": values}
            for name, values in {**accuracies, "difference": differences}.items()
        }
    return outcome


def main() -> None:
    """Train, evaluate, print and write."""
    from cifarcnn.machine import backend

    given = arguments()
    document = harness.begin("accuracy", vars(given))
    backend.load()
    paths = {"fast": train_fast, "stock": train_stock}
    seconds: dict[str, dict[str, list[float]]] = {}
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as directory:
        models: dict[str, dict[str, list[Path]]] = {}
        for arch in given.arch:
            models[arch] = {name: [] for name in paths}
            seconds[arch] = {name: [] for name in paths}
            for seed in range(given.seeds):
                settings = settings_of(given, arch, seed)
                for name, train in paths.items():
                    say(f"{arch}, seed {seed}, {name}")
                    path = Path(directory, f"{arch}-{name}-{seed}.keras")
                    started = time.perf_counter()
                    train(settings, given.data, path)
                    seconds[arch][name].append(time.perf_counter() - started)
                    models[arch][name].append(path)
        for arch in given.arch:
            results[arch] = {**compare(models[arch], given.data), "seconds": seconds[arch]}
    document |= {"versions": backend.versions(), "results": results}
    rows = [
        [
            f"{arch}, {split}",
            *(
                f"{100 * figures[name]['mean']:.2f} ± {100 * figures[name]['std']:.2f}"
                for name in ("fast", "stock", "difference")
            ),
            ", ".join(f"{100 * value:+.2f}" for value in figures["difference"]["seeds"]),
        ]
        for arch, outcome in results.items()
        for split, figures in outcome.items()
        if split != "seconds"
    ]
    header = ["accuracy in %", "fast path", "stock float32", "difference", "by seed"]
    harness.finish(
        document,
        f"Mean ± standard deviation of {given.seeds} seeds\n\n{harness.table(header, rows)}",
        given.json,
    )


if __name__ == "__main__":
    main()
