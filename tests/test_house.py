"""The house keeps its own rules: lint, format, types, import directions, names, size, and no word that does not belong."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

from sysdesign.config.root import Config
from sysdesign.flow import STAGES

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
LIBRARY = sorted((ROOT / "sysdesign").rglob("*.py")) + sorted((ROOT / "pipelines").glob("*.py"))


@pytest.mark.parametrize(
    "tool",
    [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"], ["lint-imports"]],
    ids=["ruff check", "ruff format", "mypy", "import-linter"],
)
def test_static_checks(tool: list[str]) -> None:
    done = subprocess.run([str(BIN / tool[0]), *tool[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_one_word_per_stage_everywhere() -> None:
    project = yaml.safe_load((ROOT / "MLproject").read_text())
    for name in STAGES:
        assert f"python -m pipelines.{name} " in project["entry_points"][name]["command"]
        assert (ROOT / f"pipelines/{name}.py").is_file()
        assert (ROOT / f"sysdesign/{name}/stage.py").is_file()
        assert name in Config.model_fields
        assert list((ROOT / "tests").glob(f"test_{name}*.py")), f"tests/test_{name}.py"
    for name, entry in project["entry_points"].items():
        module = "all" if name == "main" else name
        assert f"python -m pipelines.{module} " in entry["command"]
        assert (ROOT / f"pipelines/{module}.py").is_file()


def test_a_stage_is_one_public_function_with_its_contract() -> None:
    for name, stage in STAGES.items():
        tree = ast.parse((ROOT / f"sysdesign/{name}/stage.py").read_text())
        public = [node for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
        assert [node.name for node in public] == [name]
        arguments = [argument.arg for argument in public[0].args.args + public[0].args.kwonlyargs]
        assert {"cfg", "seed", "out", "log", "runtime", *stage.reads} <= set(arguments), name
        assert all(word in (ast.get_docstring(public[0]) or "") for word in ("Reads", "Writes", "Raises")), name


def test_headers_sizes_and_empty_packages() -> None:
    for path in LIBRARY:
        text = path.read_text(encoding="utf-8")
        if path.name == "__init__.py":
            assert not text.strip(), path
            continue
        assert ast.get_docstring(ast.parse(text)), f"{path}: a file says in its header what it turns into what"
        assert text.count("\n") <= 350, path
        assert not re.search(r"(utils|common|helpers)\.py$", path.name), path


def test_the_project_speaks_of_itself_alone() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    home = re.escape(f"{Path.home()}/") if len(Path.home().parts) > 1 else "(?!)"
    forbidden = re.compile(rf"{home}|\bTODO\b|\bFIXME\b|\bXXX\b")  # paths of the machine it was written on, unfinished work
    for name in listed:
        path = ROOT / name
        if path.suffix in (".py", ".md", ".yaml", ".toml", ".yml", "") and path.is_file() and name != "tests/test_house.py":
            found = forbidden.search(path.read_text(encoding="utf-8"))
            assert not found, f"{name}: {found and found[0]}"


def test_pins_carry_hashes_and_no_addresses() -> None:
    for name in ("requirements.txt", "requirements-dev.txt", "requirements-unsloth.txt"):
        text = (ROOT / name).read_text()
        assert "--hash=sha256:" in text
        assert "://" not in text
        for line in text.splitlines():
            assert re.match(r"^(\s|#|[A-Za-z0-9._-]+(\[[^\]]*\])?==)", line) or not line, line


def test_every_imported_package_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    with_others = ["pydantic-core", "triton"]  # with pydantic, with torch
    declared = " ".join([*project["dependencies"], *project["optional-dependencies"]["unsloth"], *with_others])
    known = {name.lower().replace("_", "-") for name in re.findall(r"[A-Za-z][\w-]*", declared)}
    imported = set()
    for node in (node for path in LIBRARY for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))):
        if isinstance(node, ast.Import):
            imported |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module.partition(".")[0])
    packages = packages_distributions()
    for name in imported - set(sys.stdlib_module_names) - {"sysdesign", "pipelines"}:
        assert known & {package.lower().replace("_", "-") for package in packages.get(name, [name])}, f"{name} must be in pyproject.toml"


def test_every_readme_command_exists() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    project = yaml.safe_load((ROOT / "MLproject").read_text())
    modules = set(re.findall(r"python -m (pipelines\.\w+|sysdesign\.[\w.]+)", readme))
    entries = set(re.findall(r"mlflow run \. .*?-e (\w+)", readme))
    profiles = {name for group in re.findall(r"(?:-P profile=|--profile )([\w,-]+)", readme) for name in group.split(",")}
    assert modules and entries
    for module in modules:
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file(), module
    assert entries <= set(project["entry_points"])
    for profile in profiles:
        assert (ROOT / f"conf/{profile}.yaml").is_file(), profile


def test_the_readme_tree_names_every_file() -> None:
    tree = (ROOT / "README.md").read_text(encoding="utf-8").partition("## The tree")[2]
    named = {line.split()[0] for line in tree.splitlines() if line.strip()}
    missing = [path.name for path in LIBRARY if path.name != "__init__.py" and not any(word.endswith(path.name) for word in named)]
    assert not missing


def test_ci_runs_the_readme_test_command() -> None:
    last = (ROOT / ".ci/run").read_text().strip().splitlines()[-1]
    assert last.endswith("pytest")
    assert last in (ROOT / "README.md").read_text(encoding="utf-8")
