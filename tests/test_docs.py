"""README and docs keep their word: Python blocks run, commands parse, YAML is valid, links and targets exist."""

import re
from pathlib import Path

import click
import pytest
import yaml

from skyframe.cli import cli
from skyframe.spec import CubeSpec

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "launch" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _blocks(page: Path, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(page.read_text()) if kind == language]


def _having(language: str) -> list[Path]:
    return [page for page in PAGES if _blocks(page, language)]


@pytest.mark.parametrize("page", _having("python"), ids=lambda p: p.name)
def test_python_blocks_run_in_order(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for block in _blocks(page, "yaml"):
        name = re.match(r"# (\w+\.yaml)\n", block)
        if name:
            (tmp_path / name.group(1)).write_text(block)
    names: dict[str, object] = {}
    for number, block in enumerate(_blocks(page, "python"), 1):
        exec(compile(block, f"{page.name}, Python block {number}", "exec"), names)
    assert names


@pytest.mark.parametrize("page", _having("bash"), ids=lambda p: p.name)
def test_commands_exist_and_their_options_parse(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in "".join(_blocks(page, "bash")).replace("\\\n", " ").splitlines():
        words = line.split("#")[0].split()
        if words[:1] == ["make"]:
            assert set(words[1:]) <= targets, line
        if words[:1] == ["skyframe"] and words[1:] and not words[1].startswith("-"):
            assert words[1] in cli.commands, f"{page.name}: no command {words[1]!r}"
            command = cli.commands[words[1]]
            try:
                command.make_context(words[1], words[2:])
            except click.ClickException as error:
                pytest.fail(f"{page.name}: {line}: {error.format_message()}")
            if words[1] == "pretrain":
                assert (ROOT / "recipes" / f"{Path(words[2]).stem}.yaml").is_file(), line


@pytest.mark.parametrize("page", _having("yaml"), ids=lambda p: p.name)
def test_yaml_blocks_are_valid(page: Path) -> None:
    for block in _blocks(page, "yaml"):
        tree = yaml.safe_load(block)
        if "modalities" in tree:
            assert CubeSpec.from_dict(tree, page.name).modalities


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = BLOCK.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target} is not there"


def test_every_page_is_in_the_navigation() -> None:
    listed = [page for entry in yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"] for page in entry.values()]
    assert sorted(listed) == sorted(p.name for p in (ROOT / "docs").glob("*.md"))
