"""Draw the README's picture: a real training, and a prediction by what it trained, as a terminal shows them.

    python benchmarks/picture.py --arch whiten6-tiny

The two commands run in a directory of their own, and ``picture-of-a-run.svg``, beside this file, gets every
line that they print. It refers to no other file and to no host.
"""

import argparse
import contextlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

import cifarcnn

PICTURE = Path(__file__).with_name("picture-of-a-run.svg")
COMMAND = Path(sys.executable).with_name("cifarcnn")
SHOWN = {"cat.png": 0, "ship.png": 1, "frog.png": 5}
"""Pictures that are asked about, with their places among the test images."""

TEMPLATE = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
  font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px;
  line-height: {line_height}px;
}}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""
"""Rich's own fetches a font from the network."""


def printed(directory: Path, *words: str, terminal: bool = False) -> str:
    """Run ``cifarcnn`` and return what it says on stdout and stderr; end this program if it fails."""
    environment = {name: value for name, value in os.environ.items() if name != "CIFARCNN_MODEL"}
    environment |= {"TERM": "xterm-256color", "COLORTERM": "truecolor", "COLUMNS": "100"} if terminal else {}
    reading, writing = os.openpty() if terminal else os.pipe()
    with subprocess.Popen(
        [COMMAND, *words], cwd=directory, env=environment, stdout=writing, stderr=writing
    ) as process:
        os.close(writing)
        said = b""
        with contextlib.suppress(OSError):  # Linux ends a terminal that nobody holds with an error.
            while piece := os.read(reading, 65536):
                said += piece
    text = said.decode().replace("\r\n", "\n")
    if process.returncode:
        sys.exit(f"cifarcnn {' '.join(words)} failed with exit code {process.returncode}:\n{text[-3000:]}")
    # Where its reader's home directory is says nothing about the program.
    return text.replace(str(Path.home()), "~")


def transcript(directory: Path, arch: str) -> list[Text]:
    """Train, ask, and return the lines that a terminal would show."""
    images = cifarcnn.load_images("test").images
    for name, place in SHOWN.items():
        Image.fromarray(images[place]).save(directory / name)
    # Not a terminal: the bar that moves during an epoch would leave its every state.
    trained = printed(directory, "train", "--arch", arch)
    (run,) = re.findall(r"^run directory: (.+)$", trained, re.MULTILINE)
    answered = printed(directory, "predict", "--model", run, *SHOWN, terminal=True)
    lines = []
    for command, output in (
        (f"train --arch {arch}", trained),
        (f"predict --model {run} {' '.join(SHOWN)}", answered),
    ):
        lines += [Text.assemble(("$ ", "green"), (f"cifarcnn {command}", "bold"))]
        lines += Text.from_ansi(output.strip()).split("\n")
        lines += [Text()]
    return lines[:-1]


def drawing(lines: list[Text]) -> str:
    """Return an SVG of a terminal as wide as its longest line."""
    width = max(line.cell_len for line in lines)
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        console = Console(
            record=True, width=width, file=nowhere, force_terminal=True, color_system="truecolor"
        )
        for line in lines:
            console.print(line, no_wrap=True, crop=False)
    svg = console.export_svg(title="cifarcnn", theme=MONOKAI, code_format=TEMPLATE, unique_id="run")
    return "\n".join(line.strip() for line in svg.splitlines()) + "\n"


def main() -> None:
    """Run, and write the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--arch", default="whiten6-tiny")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        lines = transcript(Path(directory), given.arch)
    PICTURE.write_text(drawing(lines), encoding="utf-8")
    print(f"wrote {PICTURE}: {PICTURE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
