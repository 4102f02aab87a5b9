"""House rules that a linter does not know: sizes, no unused objectives, no hollow tests, no paths of one machine."""

import ast
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(p for folder in ("skyframe", "tests", "benchmarks") for p in (ROOT / folder).rglob("*.py"))
MAX_FILE, MAX_FUNCTION = 400, 60


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_files_and_functions_stay_small() -> None:
    large = [f"{_name(p)}: {n} lines" for p in SOURCES if (n := p.read_text().count("\n")) > MAX_FILE]
    for path in SOURCES:
        for function in _functions(path):
            size = (function.end_lineno or function.lineno) - function.lineno + 1
            if size > MAX_FUNCTION:
                large.append(f"{_name(path)}: {function.name} has {size} lines")
    assert not large, "\n".join([f"split at {MAX_FILE} lines per file and {MAX_FUNCTION} per function:", *large])


def test_every_objective_is_used() -> None:
    """A public function of objective/ that no other module names is deleted."""
    texts = {p: p.read_text() for p in (ROOT / "skyframe").rglob("*.py")}
    for path in sorted((ROOT / "skyframe" / "objective").glob("*.py")):
        for function in ast.parse(texts[path]).body:
            if isinstance(function, ast.FunctionDef) and not function.name.startswith("_"):
                named = [p for p, text in texts.items() if p != path and re.search(rf"\b{function.name}\b", text)]
                assert named, f"{_name(path)}: no other module names {function.name}"


def _asserts(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call) and re.search(r"assert|raises|warns|check|expect|refuse", ast.unparse(node.func)):
            return True
    return False


def test_no_hollow_tests() -> None:
    for path in SOURCES:
        if path.name.startswith("test_"):
            hollow = [f.name for f in _functions(path) if f.name.startswith("test_") and not _asserts(f)]
            assert not hollow, f"{_name(path)}: {hollow} assert nothing"
            assert not re.search(r"mark\.(skip|xfail)\b", path.read_text()), f"{_name(path)}: a test that never runs"


def test_nothing_is_left_unfinished() -> None:
    unfinished = re.compile("NotImplemented" + r"Error|\bTO" + r"DO\b|\bFIX" + "ME")
    for path in SOURCES:
        found = [line.strip() for line in path.read_text().splitlines() if unfinished.search(line)]
        assert not found, f"{_name(path)}: {found}"


def _tracked() -> list[Path]:
    """Files that git knows, or all of ours where there is no git (a source archive)."""
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True)
    if listed.returncode == 0:
        return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]
    return [*SOURCES, *ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]


def test_no_file_names_this_machine() -> None:
    places = {str(ROOT.parent), str(Path.home())} - {"/"}
    words = re.compile("|".join(re.escape(f"{place}/") for place in places))
    for path in _tracked():
        if path.suffix in {".py", ".md", ".yaml", ".yml", ".cfg", ".toml", ".sh", ".txt", ""}:
            match = words.search(path.read_text(errors="replace"))
            assert match is None, f"{_name(path)} names {match.group() if match else ''}"


@pytest.mark.xdist_group("house")
def test_tests_of_one_group_share_a_worker(request: pytest.FixtureRequest) -> None:
    """pytest 9.2 hides the mark that pytest-xdist 3.8 sets, and groups fall apart without a word."""
    assert "PYTEST_XDIST_WORKER" not in os.environ or request.node.nodeid.endswith("@house")
