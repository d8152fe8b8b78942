"""Which module may import which: the commands the library, never the other way, nothing in a circle."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cifarcnn.cli.main import COMMANDS

SOURCE = Path(__file__).parents[1] / "src"

ROOMS = ("machine", "data", "runs", "models", "evaluation", "prediction", "figures", "training", "cli")
"""The packages within the package, each after those that it may know."""

LIGHT = {"click", "rich", "numpy"}
"""Packages that every command may import before it knows what it is asked."""


@dataclass
class Module:
    """What a module imports: of ours by the module's name, of others by the package's."""

    tree: ast.Module
    at_once: set[str] = field(default_factory=set)
    later: set[str] = field(default_factory=set)


def is_type_checking(node: ast.AST) -> bool:
    """Whether this is ``if TYPE_CHECKING:``, whose block never runs."""
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(node: ast.AST, inside: bool = False) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Walk import statements, each with whether it stands in a function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, inside
        elif is_type_checking(child):
            assert isinstance(child, ast.If)
            for other in child.orelse:
                yield from imports(other, inside)
        else:
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from imports(child, inside or function)


def targets(statement: ast.Import | ast.ImportFrom, ours: set[str]) -> Iterator[str]:
    """Name what a statement imports: modules of ours, and the packages of others."""
    if isinstance(statement, ast.Import):
        found = [alias.name for alias in statement.names]
    else:
        assert not statement.level, "relative imports are not followed here"
        whole = [f"{statement.module}.{alias.name}" for alias in statement.names]
        found = [name if name in ours else str(statement.module) for name in whole]
    for name in found:
        assert name in ours or not name.startswith("cifarcnn."), name
        yield name if name in ours else name.partition(".")[0]


def read() -> dict[str, Module]:
    """Parse the package."""
    modules = {}
    for path in sorted(SOURCE.rglob("*.py")):
        name = ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
        modules[name] = Module(ast.parse(path.read_text(encoding="utf-8"), path))
    for module in modules.values():
        for statement, inside in imports(module.tree):
            (module.later if inside else module.at_once).update(targets(statement, set(modules)))
    # The command line imports its commands by their names.
    modules["cifarcnn.cli.main"].later |= {f"cifarcnn.cli.{name}" for name in COMMANDS}
    return modules


MODULES = read()
COMMAND_MODULES = {name for name in MODULES if name.startswith("cifarcnn.cli")}
LIBRARY = sorted(name for name in MODULES if not name.startswith(("cifarcnn.cli", "cifarcnn.__main__")))


def room(name: str) -> str:
    """Name the package within the package that a module stands in; "" for those beside them."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else ""


def loaded_by(name: str) -> set[str]:
    """Everything that importing a module imports, by whatever detour, that is neither ours nor Python's."""
    seen, waiting = set(), {name}
    while waiting:
        seen |= waiting
        waiting = {target for one in waiting if one in MODULES for target in MODULES[one].at_once} - seen
    return {target for target in seen - set(MODULES) if target not in sys.stdlib_module_names}


def test_no_imports_go_in_a_circle() -> None:
    """Neither at the top of modules nor within functions."""
    graph = {name: (module.at_once | module.later) & set(MODULES) for name, module in MODULES.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as problem:
        pytest.fail(f"modules import each other in a circle: {' <- '.join(problem.args[1])}")


def test_every_package_within_the_package_has_its_place() -> None:
    """None is missing from the order, and none is listed that is not there."""
    assert {path.parent.name for path in (SOURCE / "cifarcnn").glob("*/__init__.py")} == set(ROOMS)


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"cifarcnn", "cifarcnn.__main__"}))
def test_dependencies_point_one_way(name: str) -> None:
    """A package knows those before it; a module beside them knows CIFAR-10 at most, and is known by all."""
    known = (MODULES[name].at_once | MODULES[name].later) & set(MODULES)
    if not room(name):
        assert {target for target in known if room(target)} <= {"cifarcnn.data.cifar10"}
    else:
        allowed = ("", *ROOMS[: ROOMS.index(room(name)) + 1])
        assert {target for target in known if room(target) not in allowed} == set()


@pytest.mark.parametrize("name", LIBRARY)
def test_the_library_never_prints(name: str) -> None:
    """Nor does it know the packages of the command line: it reports through events."""
    assert not (MODULES[name].at_once | MODULES[name].later) & {"click", "rich"}
    called = [node.func for node in ast.walk(MODULES[name].tree) if isinstance(node, ast.Call)]
    assert not [call for call in called if isinstance(call, ast.Name) and call.id in ("print", "input")]


@pytest.mark.parametrize("name", ["cifarcnn", "cifarcnn.__main__"])
def test_the_package_imports_no_other(name: str) -> None:
    """``import cifarcnn`` takes no time, and Ctrl-C while the command starts is caught."""
    assert not loaded_by(name)


@pytest.mark.parametrize("name", sorted({"cifarcnn.cli.main", *COMMAND_MODULES}))
def test_a_command_starts_without_heavy_packages(name: str) -> None:
    """A framework, Pillow or matplotlib is imported by the function that needs it, or by a module that is."""
    assert loaded_by(name) <= LIGHT


WITHOUT_POSIX = """
import builtins, os, signal, sys
import matplotlib, keras, tensorflow, PIL.Image, rich.progress, click  # they may use what they like
real = builtins.__import__
posix = ("fcntl", "grp", "pwd", "resource", "termios")
def blocked(name, within=None, *others):
    if name in posix and (within or {}).get("__name__", "").startswith("cifarcnn"):
        raise ModuleNotFoundError(name)
    return real(name, within, *others)
builtins.__import__ = blocked
for name in ("O_NONBLOCK", "O_CLOEXEC", "O_DIRECTORY", "getuid", "geteuid", "sched_getaffinity", "fork"):
    delattr(os, name)
for name in ("SIGHUP", "SIGKILL", "SIGALRM", "SIGUSR1", "SIGPIPE"):
    delattr(signal, name)
import importlib
for name in sys.argv[1:]:
    importlib.import_module(name)
from cifarcnn.machine import signals
assert signals.HANGUP is None
print(len(sys.argv) - 1)
"""


@pytest.mark.slow
def test_every_module_is_imported_where_there_is_no_posix() -> None:
    """Windows lacks these modules, functions and constants."""
    names = sorted(name for name in MODULES if not name.endswith("__main__"))
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_POSIX, *names], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, f"{len(names)}\n"), done.stderr
