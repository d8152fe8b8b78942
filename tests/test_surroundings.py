"""What other tools leave in a user's surroundings changes nothing: variables, files, streams, limits."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import isolated_environment

COMMAND = Path(sys.executable).with_name("cifarcnn")

VARIABLES = {
    # Python's own
    "PYTHONWARNINGS": "error",
    "PYTHONOPTIMIZE": "2",
    "PYTHONUTF8": "0",
    "PYTHONIOENCODING": "utf-8",
    "PYTHONHASHSEED": "7",
    "PYTHONFAULTHANDLER": "1",
    "LANG": "C",
    "LC_ALL": "tr_TR.UTF-8",
    "TZ": "Asia/Kathmandu",
    # of terminals and shells
    "COLUMNS": "0",
    "LINES": "many",
    "TERM": "dumb",
    "NO_COLOR": "1",
    "PAGER": "false",
    "CI": "true",
    "JUPYTER_COLUMNS": "0",
    # of Keras, TensorFlow and what they compute with
    "KERAS_MAX_EPOCHS": "0",
    "KERAS_MAX_STEPS_PER_EPOCH": "1",
    "KERAS_NNX_ENABLED": "1",
    "TF_USE_LEGACY_KERAS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "1",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "TF_NUM_INTEROP_THREADS": "3",
    "CUDA_VISIBLE_DEVICES": "7",
    "OMP_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_enable_fast_math=false",
    # of Matplotlib
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    # of networks
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
    # of an interactive job
    "SLURM_JOB_ID": "17",
    "SLURM_JOB_NAME": "interactive",
    "SLURM_NTASKS": "1",
    "SLURM_NODELIST": "node1",
    "SLURM_CPUS_ON_NODE": "64",
}

KERAS_FILES = {
    "channels_first": '{"image_data_format": "channels_first"}',
    "float16": '{"floatx": "float16", "epsilon": 0.01}',
    "float64": '{"floatx": "float64"}',
    "a word": '{"floatx": "big", "image_data_format": 3}',
    "odd types": '{"floatx": ["float32"], "epsilon": 1, "backend": null}',
    "a list": "[]",
    "no JSON": "floatx = float16",
    "nested": "[" * 100_000,
}


def hostile(place: Path) -> dict[str, str]:
    """Variables and files of other tools, all at once."""
    place.mkdir(exist_ok=True)
    (place / "keras.json").write_text(
        '{"floatx": "float16", "epsilon": 0.1, "image_data_format": "channels_first"}'
    )
    (place / "matplotlibrc").write_text(
        "text.usetex: True\nfont.family: no such font\nfont.size: 40\nbackend: qtagg\nno.such.setting: 1\n"
    )
    (place / "startup.py").write_text("raise SystemExit(3)\n")
    (place / "a place for files").mkdir(exist_ok=True)
    return VARIABLES | {
        "HOME": str(place / "no home"),
        "KERAS_HOME": str(place),
        "MATPLOTLIBRC": str(place / "matplotlibrc"),
        "PYTHONSTARTUP": str(place / "startup.py"),
        "TMPDIR": str(place / "a place for files"),
    }


def run(directory: Path, *arguments: object, env: dict[str, str] | None = None, **options: object):
    """Run the installed command in a directory, with nothing of this process's surroundings."""
    return subprocess.run(
        [COMMAND, *map(str, arguments)],
        env=isolated_environment(directory) | (env or {}),
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        **options,  # type: ignore[call-overload]
    )


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two directories with the same pictures: one for a clean surrounding, one for a hostile one."""
    generator = np.random.default_rng(1)
    pictures = {f"{name}/{number}.png": generator.integers(0, 256, (32, 32, 3), np.uint8)
                for name in ("cat", "ship", "dog") for number in range(20)}  # fmt: skip
    found = []
    for kind in ("clean", "hostile"):
        place = tmp_path_factory.mktemp(kind)
        for name, pixels in pictures.items():
            (place / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place / "pictures" / name)
        found.append(place)
    return found[0], found[1]


def assert_same(places: tuple[Path, Path], *words: object) -> None:
    """Expect a command to print the same in both places, and no traceback."""
    clean, odd = places
    first = run(clean, *words)
    second = run(odd, *words, env=hostile(odd / "surroundings"), umask=0o077)
    assert first.returncode == second.returncode == 0, (first.stderr, second.stderr)
    assert first.stdout
    assert timeless(second.stdout) == timeless(first.stdout)
    assert b"Traceback" not in second.stderr
    assert b"Warning" not in second.stderr


def timeless(out: bytes) -> str:
    """Leave out when it was, and how long it took."""
    stamps = r"\d{8}-\d{6}|\d{4}-\d\d-\d\d \d\d:\d\d|[\d.,]+ (s|images/s)\b|[\d.]+ +[\d,]+ +finished"
    return re.sub(r" +", " ", re.sub(stamps, "TIME", out.decode()))


@pytest.mark.parametrize(
    "words",
    [
        ("--version",),
        ("data", "show", "--data", "pictures", "--count", 2, "--val-size", 0),
        ("predict", "pictures/cat/0.png", "pictures/ship/0.png"),
        ("predict", "pictures/cat/0.png", "--json"),
        ("evaluate", "pretrained", "--data", "pictures"),
    ],
    ids=lambda words: " ".join(map(str, words[:2])),
)
def test_commands_without_keras_say_the_same(words: tuple[object, ...], places: tuple[Path, Path]) -> None:
    """Whatever other tools have left: the pictures' names, the sizes of tables, the answers."""
    assert_same(places, *words)


@pytest.mark.slow
def test_commands_with_keras_say_the_same(places: tuple[Path, Path]) -> None:
    """A training, and all that is done with its model."""
    assert_same(places, "summary", "shallow2")
    computing = ("--device", "cpu", "--precision", "float32")
    assert_same(places, "train", "--arch", "plain6-small", "--data", "pictures", "--val-size", 9, *computing,
                "--epochs", 2, "--batch-size", 10, "--out", "made")  # fmt: skip
    for place in places:
        (made,) = (place / "made").iterdir()
        made.rename(place / "made" / "run")
    models = [keras_weights(place / "made" / "run" / "last.keras") for place in places]
    for one, other in zip(*models, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-4)
    assert_same(places, "summary", "made/run")
    assert_same(places, "runs", "made")
    assert_same(places, "predict", "pictures/cat/1.png", "--model", "made/run")
    assert_same(places, "evaluate", "made/run", "--data", "pictures")
    clean, odd = places
    for kind, name in (("litert", "made.tflite"), ("saved-model", "made-saved")):
        words = ("export", "made/run", "--format", kind, "--output", name, "--data", "pictures")
        # What is printed holds digests of weights, whose last digits hang on the kernels that computed them.
        for place, env in ((clean, {}), (odd, hostile(odd / "surroundings"))):
            done = run(place, *words, env=env)
            assert done.returncode == 0, done.stderr
            assert name.encode() in done.stdout


def keras_weights(path: Path) -> list[np.ndarray]:
    """Read a model's weights."""
    import keras

    weights: list[np.ndarray] = keras.saving.load_model(path).get_weights()
    return weights


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "lines"),
    [
        (
            {"KERAS_BACKEND": "torch"},
            "error: KERAS_BACKEND asks for .* 'torch'; expected tensorflow or jax",
        ),
        ({"TF_XLA_FLAGS": "--bogus"}, ".*Unknown flag in TF_XLA_FLAGS: --bogus"),
        ({"KERAS_BACKEND": "jax", "XLA_FLAGS": "--bogus"}, ".*Unknown flag in XLA_FLAGS: --bogus"),
    ],
    ids=str,
)
def test_what_cannot_work_is_said_in_one_line(settings: dict[str, str], lines: str, tmp_path: Path) -> None:
    """By us, or by what ends the process."""
    done = run(tmp_path, "summary", "plain6", env=settings)
    assert done.returncode != 0
    (line,) = done.stderr.decode().splitlines()
    assert re.match(lines, line)


@pytest.mark.slow
@pytest.mark.parametrize("megabytes", [800, 1500])
def test_a_limit_on_memory_is_one_line(megabytes: int, tmp_path: Path) -> None:
    """Whether TensorFlow's libraries or a network's weights have no room."""
    resource = pytest.importorskip("resource")
    bound = (megabytes << 20, resource.RLIM_INFINITY)
    done = run(
        tmp_path, "summary", "shallow2", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, bound)
    )
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith(("error: out of memory", "error: cannot import Keras on tensorflow"))


@pytest.mark.parametrize("redirection", ["2>&-", "<&- 2>&-"])
def test_closed_streams_cost_nothing(redirection: str, places: tuple[Path, Path]) -> None:
    """The answer is still there."""
    script = f'"$0" predict pictures/cat/0.png --json {redirection}'
    done = subprocess.run(["/bin/bash", "-c", script, COMMAND], env=isolated_environment(places[0]),
                          cwd=places[0], capture_output=True, check=False)  # fmt: skip
    assert done.returncode == 0
    assert json.loads(done.stdout)["predictions"]


def test_a_terminal_of_few_letters_costs_no_answer(places: tuple[Path, Path]) -> None:
    """What an encoding lacks is shown by its codes."""
    done = run(places[0], "evaluate", "pretrained", "--data", "pictures", env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0
    assert b"accuracy" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("content", KERAS_FILES.values(), ids=KERAS_FILES)
def test_keras_json_changes_no_network(content: str, tmp_path: Path) -> None:
    """Nor does it end anything."""
    (tmp_path / "keras.json").write_text(content)
    done = run(tmp_path, "summary", "shallow2", "--json", env={"KERAS_HOME": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["params"] == 4_210_090


def python(script: str, environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run a program that uses the package as a library."""
    return subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )


SCRIPT = """
import keras, sys, threading
import numpy as np
keras.config.set_floatx("float64")
keras.config.set_epsilon(0.01)
keras.config.set_image_data_format("channels_first")
keras.config.set_dtype_policy("float64")
keras.config.set_max_epochs(3)
import cifarcnn
network = cifarcnn.build("plain6-small")
print(network.output_shape, network.compute_dtype, network.layers[-1].dtype)
print(cifarcnn.summarise("shallow2").params)
print(keras.config.floatx(), keras.config.epsilon(), keras.config.image_data_format(),
      keras.config.dtype_policy().name, keras.config.max_epochs())
"""


@pytest.mark.slow
def test_a_callers_own_settings_of_keras_are_put_back(tmp_path: Path) -> None:
    """What is made in between is made with ours."""
    done = python(SCRIPT, isolated_environment(tmp_path))
    assert done.stdout.splitlines() == [
        "(None, 10) float32 float32", "4210090", "float64 0.01 channels_first float64 3"
    ], done.stderr  # fmt: skip


LATER = """
import cifarcnn, sys
cifarcnn.summarise("plain6")
import keras
print(keras.config.floatx(), keras.config.image_data_format(), keras.config.dtype_policy().name)
"""


@pytest.mark.slow
def test_settings_from_a_callers_file_hold_outside_of_our_calls(tmp_path: Path) -> None:
    """Also where our call was the first to import Keras."""
    (tmp_path / "keras.json").write_text('{"floatx": "float16", "image_data_format": "channels_first"}')
    environment = isolated_environment(tmp_path) | {"KERAS_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", LATER], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("float16 channels_first float16\n", "")
