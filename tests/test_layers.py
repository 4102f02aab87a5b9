"""The law of the floors: imports go down, never sideways or in circles, and listings need no torch."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "skyframe"
FLOORS = {
    **dict.fromkeys(("config", "spec", "sample", "calendar", "geography", "hashing", "randomness", "dist"), 0),
    **dict.fromkeys(("data", "model", "objective"), 1),
    "system": 2,
    **dict.fromkeys(("train", "export", "evaluate", "launch"), 3),
    **dict.fromkeys(("cli", "commands", "adapters", "__init__", "__main__"), 4),
}
TORCH_FREE = {"config", "spec", "calendar", "geography", "hashing"}
HEAVY = {"torch", "pytorch_lightning", "lightning_fabric", "deepspeed", "torchmetrics", "xarray", "zarr", "pandas"}


def _files() -> dict[str, Path]:
    """Module name -> file, e.g. `skyframe.data.read`."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


FILES = _files()


def _room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def _imports(tree: ast.AST) -> set[str]:
    """Our own modules that a tree imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            joined = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in FILES else node.module for name in joined}
    return {name for name in names if name in FILES}


def _tree(module: str) -> ast.Module:
    return ast.parse(FILES[module].read_text())


def _faults(module: str) -> Iterator[str]:
    here = _room(module)
    if here not in FLOORS:
        yield f"skyframe/{here} stands on no floor; give it one in tests/test_layers.py and CONTRIBUTING.md"
        return
    for target in sorted(_imports(_tree(module)) - {"skyframe"}):
        there = _room(target)
        lower = FLOORS[there] < FLOORS[here] or (FLOORS[there] == FLOORS[here] and FLOORS[here] in (0, 4))
        if there != here and not lower:
            yield f"{module} imports {target}, which is not on a lower floor"
        if here in ("config", "spec") and there not in TORCH_FREE:
            yield f"{module} must import without torch, but imports {target}"
        if here == "launch" and there not in ("launch", "config", "spec"):
            yield f"{module} runs on login nodes, but imports {target}"


def test_imports_go_down() -> None:
    faults = [fault for module in sorted(FILES) if module != "skyframe" for fault in _faults(module)]
    assert not faults, "\n".join(faults)


def test_the_law_notices_a_breach(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    upward = tmp_path / "upward.py"
    upward.write_text("def late():\n    from skyframe.train import run\n\nimport skyframe.model\n")
    monkeypatch.setitem(FILES, "skyframe.data.upward", upward)
    assert len(list(_faults("skyframe.data.upward"))) == 2


def test_imports_are_absolute() -> None:
    for module in FILES:
        nodes = [node for node in ast.walk(_tree(module)) if isinstance(node, ast.ImportFrom)]
        assert not [node.lineno for node in nodes if node.level], f"{module} has relative imports"


def test_no_import_circles() -> None:
    edges = {}
    for module in FILES:
        top = [node for node in _tree(module).body if isinstance(node, ast.Import | ast.ImportFrom)]
        edges[module] = _imports(ast.Module(body=list(top), type_ignores=[])) - {module}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for target in sorted(edges[module]):
                visit(target, (*path, module))
            done.add(module)

    for module in sorted(edges):
        visit(module, ())


def _modules_after(code: str) -> set[str]:
    """Top-level names in sys.modules of a fresh interpreter after `code`."""
    script = f"import sys\n{code}\nprint('|' + ' '.join({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.rsplit("|", 1)[1].split())


def test_schemas_and_specs_import_without_torch() -> None:
    modules = [m for m in FILES if _room(m) in {*TORCH_FREE, "launch"}]
    loaded = _modules_after("\n".join(f"import {m}" for m in modules))
    assert not loaded & HEAVY, f"{sorted(loaded & HEAVY)} were loaded by floor 0"


def test_help_loads_nothing_heavy() -> None:
    loaded = _modules_after("import skyframe.cli\nsys.argv = ['skyframe', '--help']\nskyframe.cli.main()")
    assert "click" in loaded and not loaded & (HEAVY | {"numpy", "scipy", "matplotlib"})


def test_a_plan_of_training_loads_neither_trainer_nor_store() -> None:
    said = "sys.argv = ['skyframe', 'plan', 'skysense_demo', '--gpus', '2', '--global-batch', '2']"
    loaded = _modules_after(f"import skyframe.cli\n{said}\nskyframe.cli.main()")
    assert "torch" in loaded and not loaded & (HEAVY - {"torch"})


@pytest.mark.parametrize(
    "words",
    [
        "skysense_demo",
        "skysense_demo --sweep seed=0,1",
        "--array 3 -- ingest cf a.nc b",
        "--array *.md -- verify {item}",
    ],
)
def test_a_login_node_loads_nothing_heavy(words: str) -> None:
    said = f"sys.argv = {['skyframe', 'launch', '--cluster', 'example_cpu', '--dry-run', *words.split()]}"
    loaded = _modules_after(f"import skyframe.cli\n{said}\nskyframe.cli.main()")
    assert "omegaconf" in loaded and not loaded & (HEAVY | {"numpy", "scipy", "matplotlib", "rich"})


def test_every_system_has_a_schema() -> None:
    from skyframe.config import SCHEMAS
    from skyframe.system import SYSTEMS

    assert set(SCHEMAS) == set(SYSTEMS)
