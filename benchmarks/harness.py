"""What the benchmarks share: contestants in processes of their own, spreads, tables, facts about the machine.

Nothing here imports TensorFlow, Keras or PyTorch; the contestants do, each in its own process, so that their
threads, allocators and memory peaks do not mix.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def run(script: str, kind: str, spec: dict[str, Any], python: str = sys.executable) -> dict[str, Any]:
    """Run one contestant to its end, on the CPU, and return what it measured.

    Args:
        script: a file of this directory; it prints one line of JSON last.
        kind: which of the script's contestants.
        spec: what it needs to know.
        python: the interpreter.
    """
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "-1",
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    command = [python, str(HERE / script), kind, json.dumps(spec)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(f"{script} {kind} failed with exit code {done.returncode}:\n{done.stderr[-3000:]}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def peak_memory() -> int:
    """Return the most memory that this process has held so far, in bytes.

    Linux's ``ru_maxrss`` would count what the parent held before this program began; ``VmHWM`` does not.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def spread(values: Iterable[float]) -> dict[str, float]:
    """Return the median and the extremes."""
    numbers = list(values)
    return {"median": statistics.median(numbers), "min": min(numbers), "max": max(numbers)}


def machine() -> dict[str, Any]:
    """Return what the results depend on, apart from versions."""
    from cifarcnn.machine import devices

    return {
        "cpu": devices.cpu_name(),
        "cpus": devices.usable_cpus(),
        "bfloat16": sorted(devices.cpu_flags() & devices.BFLOAT16_FLAGS),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "platform": f"{platform.system()}-{platform.machine()}-{''.join(platform.libc_ver())}",
        "load_average_before": round(os.getloadavg()[0], 2),
    }


def begin(benchmark: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Begin the document of a benchmark, and warn if the machine has other work."""
    hardware = machine()
    if hardware["load_average_before"] > 0.5:
        say(f"warning: the load average is {hardware['load_average_before']}; other work distorts the times")
    command = " ".join(["python", *sys.argv])
    return {
        "schema": 1,
        "benchmark": benchmark,
        "command": command,
        "hardware": hardware,
        "parameters": parameters,
    }


def say(text: str) -> None:
    """Tell of progress."""
    print(text, file=sys.stderr, flush=True)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table whose columns line up; all but the first are set to the right."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines.insert(1, rule)
    return "\n".join(
        "| "
        + " | ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in lines
    )


def finish(document: dict[str, Any], text: str, target: str | None) -> None:
    """Print the tables, and write the document.

    Args:
        document: everything measured.
        text: the tables.
        target: a file, or "-" for stdout (the tables then go to stderr), or None.
    """
    hardware = document["hardware"]
    bfloat16 = ", ".join(hardware["bfloat16"]) or "no native bfloat16"
    versions = ", ".join(f"{name} {number}" for name, number in document["versions"].items())
    heading = (
        f"{hardware['cpu']}, {hardware['cpus']} cores, {bfloat16}, {hardware['memory_gib']} GiB; {versions}"
    )
    print(f"{heading}\n\n{text}", file=sys.stderr if target == "-" else sys.stdout)
    if target == "-":
        print(json.dumps(document, indent=1))
    elif target:
        from cifarcnn.machine import files

        files.write_text(Path(target), json.dumps(document, indent=1) + "\n")
