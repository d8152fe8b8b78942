"""Make the model that comes with the package out of a run directory.

    python benchmarks/box.py runs/20261121-033456-vgg2-fast-seed0

It exports the run's best model with float16 weights, measures the result on the test images, plain and over
mirrored and shifted views, and writes model.tflite, with its provenance inside, and its checksum to the
package's directory ``models/pretrained_model``. For maintainers, from a source tree: commit what it writes.
"""

import argparse
import dataclasses
import datetime
import hashlib
import io
import json
import shlex
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parents[1] / "src"


def command(run: Path) -> str:
    """Spell the command that trains such a run again, also when the recipe will have changed."""
    from cifarcnn import config

    settings = json.loads((run / "settings.json").read_text())
    chosen = {"arch": settings["arch"], "recipe": settings.get("recipe", "fast")}
    recipe = dataclasses.asdict(config.resolve(chosen))
    defaults = {name: item.default for name, item in config.FIELDS.items()}
    words = ["cifarcnn", "train", "--arch", settings["arch"]]
    if chosen["recipe"] != dataclasses.asdict(config.resolve({"arch": settings["arch"]})).get("recipe"):
        words += ["--recipe", chosen["recipe"]]
    for name, value in settings.items():
        # Device and precision stand in a run as they were resolved; on another machine they may differ.
        by_hardware = name in ("device", "precision", "devices")
        said = value != recipe.get(name) or value != defaults.get(name)
        if name not in ("arch", "recipe") and not by_hardware and said and value is not None:
            flag = f"--{name.replace('_', '-')}"
            words += [flag] if value is True else [flag, f"{value}"]
    return shlex.join(words)


def provenance(run: Path, export: Any, measured: Any) -> dict[str, Any]:
    """Gather how the model was made and what it is worth."""
    from cifarcnn.models import modelfile

    metadata = modelfile.read_metadata(run)
    facts = metadata.get("facts", {})
    known = ("cifarcnn", "keras", "tensorflow", "numpy", "jax")
    settings = json.loads((run / "settings.json").read_text())
    return {
        "command": command(run),
        "seed": metadata.get("seed"),
        "epoch": f"{metadata.get('epoch')} of {metadata.get('epochs')}",
        "precision": settings.get("precision"),
        "versions": {name: facts[name] for name in known if name in facts},
        "hardware": {name: facts[name] for name in ("cpu", "cpus", "device") if name in facts},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "exported_from": hashlib.sha256(modelfile.resolve(run).read_bytes()).hexdigest(),
        "test_accuracy": measured.metrics.accuracy,
        "test_accuracy_views": measured.averaged["flip_shift"].accuracy,
        "test_images": measured.metrics.n,
        "changed_by_rounding": export.changed,
    }


def without_metadata(data: bytes) -> bytes:
    """Take the zip off the end of a LiteRT model."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return data[: min(member.header_offset for member in archive.infolist())]


def main() -> None:
    """Export, measure, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, help="a run directory")
    parser.add_argument("--data", help="where CIFAR-10 is; default: where `cifarcnn train` finds it")
    parser.add_argument(
        "--into",
        type=Path,
        default=SOURCE / "cifarcnn" / "models" / "pretrained_model",
        help="default: %(default)s",
    )
    given = parser.parse_args()
    if not (given.run / "settings.json").is_file():
        parser.error(f"{given.run} is no run directory; expected one that `cifarcnn train` made")
    from cifarcnn.evaluation import evaluate as evaluation
    from cifarcnn.events import Event, Note
    from cifarcnn.machine import files
    from cifarcnn.models import exporting, litert, modelfile, pretrained

    def tell(event: Event) -> None:
        if isinstance(event, Note):
            print(event.text, file=sys.stderr)

    with tempfile.TemporaryDirectory() as directory:
        draft = Path(directory, pretrained.PATH.name)
        export = exporting.export(
            given.run, "litert", output=draft, half=True, data=given.data, on_event=tell
        )
        measured = evaluation.evaluate(draft, data=given.data, tta=True, on_event=tell)
        metadata = modelfile.read_metadata(draft)
        whole = draft.read_bytes()
        facts = provenance(given.run, export, measured)
    text = json.dumps({**metadata, "provenance": facts}, indent=1, sort_keys=True, allow_nan=False)
    data = litert.with_metadata(without_metadata(whole), text)
    if len(data) > pretrained.LARGEST:
        sys.exit(f"the model has {len(data):,} bytes; at most {pretrained.LARGEST:,} fit into the package")
    given.into.mkdir(exist_ok=True)
    digest = hashlib.sha256(data).hexdigest()
    files.write_bytes(given.into / pretrained.PATH.name, data)
    files.write_text(given.into / pretrained.CHECKSUM.name, f"{digest}  {pretrained.PATH.name}\n")
    print(json.dumps({**facts, "sha256": digest, "bytes": len(data)}, indent=1))


if __name__ == "__main__":
    main()
