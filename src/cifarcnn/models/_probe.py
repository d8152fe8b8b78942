"""Open one exported model and ask it about random images, in a process that may die of it.

    python -m cifarcnn.models._probe KIND NAME PLACE

KIND is litert, onnx or saved-model; NAME is what messages call the model; PLACE is the checked copy. The
process takes limits on memory, time and files before it looks at the model, and ends with one line of JSON:
``{"error": null}``, or the reason why the model is refused.
"""

import contextlib
import json
import os
import sys
from pathlib import Path

from cifarcnn.models.exportformats import FORMATS

PROCESSOR_SECONDS = 120


def limit(kind: str) -> None:
    """Bound what this process may take, as far as the platform lets it."""
    import resource

    for what, most in (
        (resource.RLIMIT_AS, FORMATS[kind].memory),
        (resource.RLIMIT_CPU, PROCESSOR_SECONDS),
        (resource.RLIMIT_FSIZE, 1 << 20),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(what, (bound, bound))


def probe(kind: str, name: str, place: Path) -> None:
    """Check the graph, open it and ask it about as many images as a step of inference has."""
    from cifarcnn.models import graphguard, runtimes
    from cifarcnn.models.modelfile import BATCH_SIZE

    runtime: runtimes.Runtime
    if kind == "saved-model":
        graphguard.check_saved_model(name, place)
        runtime = runtimes.SavedModel(name, place)
    elif kind == "onnx":
        for module in ("onnx", "onnxruntime"):
            runtimes.import_onnx(module)
        graphguard.check_onnx(name, place.read_bytes())
        runtime = runtimes.Onnx(name, place.read_bytes())
    else:
        graphguard.check_litert(name, place.read_bytes())
        runtime = runtimes.LiteRT(name, place.read_bytes())
    runtimes.check_answers(name, runtime, BATCH_SIZE)


def main() -> None:
    """Probe, and say what came of it on the stdout that this process began with."""
    kind, name, place = sys.argv[1:]
    answer = os.dup(1)
    os.dup2(2, 1)
    limit(kind)
    from cifarcnn.errors import CifarCNNError, first_line

    error = None
    try:
        probe(kind, name, Path(place))
    except CifarCNNError as problem:
        error = str(problem)
    # The readers of the formats promise no set of errors for a hostile file; none of them is a bug here.
    except Exception as problem:
        error = f"the model {name} is damaged, or cannot be run: {first_line(problem)}"
    os.write(answer, json.dumps({"error": error}).encode() + b"\n")
    # Native libraries may be in a state in which tidying up would crash.
    os._exit(0)


if __name__ == "__main__":
    main()
