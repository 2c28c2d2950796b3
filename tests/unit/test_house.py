"""The frame holds: every module in its place, and nothing loaded that was not asked for."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import EntryPoint, distribution
from importlib.util import find_spec
from pathlib import Path

import pytest

import stream_update
from stream_update.protocols import Learner, Monitor
from tests.programs import call, configure, elec2, write_jsonl

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
PACKAGE = Path(stream_update.__file__).parent
MODULES = {
    ".".join(("stream_update", *path.relative_to(PACKAGE).with_suffix("").parts)): path
    for path in PACKAGE.rglob("*.py")
}
CORE = ["cadence", "errors", "events", "lane", "protocols", "slots", "worker"]

# Runs the command line, then tells which of the top-level modules it has loaded.
WATCHED = """
import atexit, json, sys

def tell(path=sys.argv.pop(1)):
    with open(path, "w") as file:
        json.dump(sorted({name.partition(".")[0] for name in sys.modules}), file)

atexit.register(tell)
sys.argv[0] = "stream-update"
from stream_update.cli import main
main()
"""


def loaded_by(code: str, *arguments: str | Path, folder: Path) -> set[str]:
    """The top-level modules that a new process has loaded when this code has run."""
    found = folder / "loaded.json"
    done = subprocess.run(
        [sys.executable, "-c", code, str(found), *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(found.read_text()))


def after(*statements: str) -> str:
    """Code that runs these statements and then tells what it has loaded."""
    return "\n".join(
        [
            *statements,
            "import json, sys",
            "names = sorted({name.partition('.')[0] for name in sys.modules})",
            "open(sys.argv[1], 'w').write(json.dumps(names))",
        ]
    )


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """The contracts of the project, checked on the package in this folder."""
    run = "from importlinter.cli import lint_imports_command as run; run()"
    return subprocess.run(
        [sys.executable, "-c", run, "--no-cache", "--no-logo", "--config", str(PROJECT)],
        cwd=folder,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder with a copy of the package, to be spoiled."""
    shutil.copytree(
        PACKAGE, tmp_path / "stream_update", ignore=shutil.ignore_patterns("__pycache__", "data")
    )
    return tmp_path


def test_every_module_says_what_it_is() -> None:
    assert not [
        name
        for name, path in MODULES.items()
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]


def test_no_module_is_named_after_nothing() -> None:
    vague = {"common", "helpers", "misc", "shared", "tools", "util", "utils"}
    assert not [name for name in MODULES if vague & set(name.split("."))]


@pytest.mark.parametrize(
    ("library", "adapter"),
    [("kafka", "stream_update.log.kafka"), ("confluent_kafka", "stream_update.log.librdkafka")],
)
def test_only_its_adapter_imports_a_client(library: str, adapter: str) -> None:
    importers = {
        name
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for imported in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
        if imported.partition(".")[0] == library
    }
    assert importers
    assert {".".join(name.split(".")[:3]) for name in importers} == {adapter}


def test_the_import_contracts_are_kept(copy: Path) -> None:
    done = lint_imports(copy)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(
    ("module", "line", "said"),
    [
        ("stray.py", '"""A module without a place."""', "stream_update.stray"),
        ("events.py", "import stream_update.lane", "events -> stream_update.lane"),
        ("files.py", "import stream_update.wraps", "files -> stream_update.wraps"),
        ("worker.py", "import river", "worker -> river"),
        ("lane.py", "import kafka", "lane -> kafka"),
    ],
    ids=["no place", "upward", "sibling", "library", "broker"],
)
def test_the_import_contracts_can_be_broken(copy: Path, module: str, line: str, said: str) -> None:
    with (copy / "stream_update" / module).open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")
    done = lint_imports(copy)
    assert done.returncode != 0
    assert said in done.stdout


@pytest.mark.parametrize("module", CORE)
def test_the_core_loads_no_library_that_learns(module: str, tmp_path: Path) -> None:
    loaded = loaded_by(after(f"import stream_update.{module}"), folder=tmp_path)
    assert "stream_update" in loaded
    assert not loaded & {"kafka", "river", "torch"}


def test_a_service_that_predicts_imports_little(tmp_path: Path) -> None:
    code = after("from stream_update import ModelSubscriber")
    assert not loaded_by(code, folder=tmp_path) & {"click", "kafka", "river", "torch"}


def test_a_river_only_run_on_the_embedded_log_loads_no_kafka_and_no_torch(tmp_path: Path) -> None:
    config = configure(tmp_path, "sqlite:///app.db", "app")
    events = write_jsonl(tmp_path / "events.jsonl", elec2(50))
    call("produce", events, "-c", config, cwd=tmp_path)
    loaded = loaded_by(WATCHED, "run", "-c", config, "--until-end", folder=tmp_path)
    assert {"river", "sqlite3", "stream_update"} <= loaded
    assert not loaded & {"kafka", "matplotlib", "pandas", "sklearn", "torch"}


def our_entry_points() -> list[EntryPoint]:
    return sorted(distribution("stream-update").entry_points)


@pytest.mark.parametrize(
    "point", our_entry_points(), ids=lambda point: f"{point.group}:{point.name}"
)
def test_every_short_name_stands_for_something(point: EntryPoint) -> None:
    if point.name in {"recommender", "torch"}:
        pytest.importorskip("torch")
    assert callable(point.load())


@pytest.mark.parametrize(
    ("group", "seam"), [("stream_update.learners", Learner), ("stream_update.monitors", Monitor)]
)
def test_what_is_registered_has_the_shape_of_its_seam(group: str, seam: type) -> None:
    points = [point for point in our_entry_points() if point.group == group]
    assert points
    methods = {
        name for name in seam.__dict__ if not name.startswith("_") and callable(seam.__dict__[name])
    }
    assert methods
    for point in points:
        if point.name in {"recommender", "torch"} and find_spec("torch") is None:
            continue
        assert not {name for name in methods if not callable(getattr(point.load(), name, None))}


# Runs the command line as on a machine that has no torch.
WITHOUT_TORCH = """
import sys

class NoTorch:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoTorch)
sys.argv[0] = "stream-update"
from stream_update.cli import main
main()
"""


def without_torch(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.parametrize("kind", ["recommender", "torch"])
def test_without_torch_river_runs_and_torch_says_what_to_install(kind: str, tmp_path: Path) -> None:
    config = configure(tmp_path, "sqlite:///app.db", "app")
    assert without_torch("check", "-c", config, folder=tmp_path).returncode == 0
    wanted = configure(tmp_path, "sqlite:///app.db", "net", learner=f'use = "{kind}"')
    done = without_torch("check", "-c", wanted, folder=tmp_path)
    assert done.returncode == 2
    said = " ".join(done.stderr.split())
    assert "needs the package torch, which is not installed" in said
    assert "pip install 'stream-update[torch]'" in said
