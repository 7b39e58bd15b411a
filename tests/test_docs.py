"""What the papers say is so: their Python runs, shown output comes out, tables equal the code.

Python blocks of a page run one after another in one namespace; a block that begins with a comment
``# name.py`` is that file, to be imported by later blocks. A ``text`` block right after a Python
block shows what that prints. What stands between ``<!-- begin ... -->`` and ``<!-- end -->`` is
made from the code. To write outputs and tables anew:

    python -m pytest tests/test_docs.py --renew
"""

from __future__ import annotations

import ast
import contextlib
import io
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

import ostinato
from helpers import TOLERANCE
from ostinato import _native
from ostinato.cells import registry
from ostinato.compiler.ir import OPS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
#: What a shown path looks like; the real one is the test's own folder.
SHOWN_FOLDER = "/home/me"


@dataclass
class Block:
    """A fenced block: lines ``start`` to ``stop`` of its page, without the fences."""

    language: str
    start: int
    stop: int
    text: str


def blocks_of(lines: list[str]) -> list[Block]:
    blocks: list[Block] = []
    start = None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if start is None:
            start, language = number + 1, line[3:].strip()
        else:
            text = "\n".join(lines[start:number]) + "\n"
            blocks.append(Block(language, start, number, text))
            start = None
    assert start is None, "a block without an end"
    return blocks


def shown_output(blocks: list[Block], number: int, lines: list[str]) -> Block | None:
    """The ``text`` block that follows a Python block with nothing but empty lines between."""
    if number + 1 == len(blocks) or blocks[number + 1].language != "text":
        return None
    between = lines[blocks[number].stop + 1 : blocks[number + 1].start - 1]
    return None if any(line.strip() for line in between) else blocks[number + 1]


def comparable(text: str) -> list[str]:
    """The instruction set is the machine's."""
    return re.sub(r"instruction set \w+", "instruction set", text).rstrip().splitlines()


def run_block(block: Block, page: Path, namespace: dict[str, Any], folder: Path) -> str:
    name = re.match(r"# (\w+)\.py\n", block.text)
    if name is not None:
        (folder / f"{name[1]}.py").write_text(block.text)
        return ""
    # Errors and traces name the line of the page.
    code = compile("\n" * block.start + block.text, str(page), "exec")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, namespace)
    return printed.getvalue().replace(str(folder), SHOWN_FOLDER)


@pytest.fixture
def settings_restored(tmp_path: Path) -> Iterator[None]:
    isa, threads = _native.isa(), torch.get_num_threads()
    modules, torch_state = set(sys.modules), torch.get_rng_state()
    entries = dict(registry.CELLS), dict(registry._names)
    yield
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            sys.modules.pop(name)  # a page's own files; libraries can't be imported twice
    for table, before in zip((registry.CELLS, registry._names), entries, strict=True):
        table.clear()
        table.update(before)
    ostinato.strict(False)
    _native.set_isa(isa)
    torch.set_num_threads(threads)
    torch.set_rng_state(torch_state)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
@pytest.mark.usefixtures("settings_restored")
def test_code_runs_and_prints_what_is_shown(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renew: bool
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    lines = page.read_text().splitlines()
    blocks = blocks_of(lines)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    torch.manual_seed(0)
    printed: list[tuple[Block, str]] = []
    for number, block in enumerate(blocks):
        if block.language != "python":
            continue
        output = run_block(block, page, namespace, tmp_path)
        shown = shown_output(blocks, number, lines)
        if shown is not None:
            printed.append((shown, output))
    if renew:
        for shown, output in reversed(printed):
            if comparable(shown.text) != comparable(output):
                lines[shown.start : shown.stop] = output.rstrip().splitlines()
        page.write_text("\n".join(lines) + "\n")
        return
    for shown, output in printed:
        assert comparable(shown.text) == comparable(output), f"{page.name}:{shown.start}"


# ---- tables


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cells_table() -> str:
    rows = []
    for name in registry.names():
        entry = registry.entry(name)
        if not entry.cls.__module__.startswith("ostinato."):
            continue
        cell = entry.cls(1, 1)
        variants = "; ".join(
            ", ".join(f"`{k}={v!r}`" for k, v in variant.items()) for variant in entry.variants
        )
        rows.append(
            [
                f"`{name}`",
                f"`cells.{entry.cls.__name__}`",
                ", ".join(f"`{a}`" for a in entry.aliases) or "none",
                variants or "none",
                ", ".join(f"`{g}`" for g in cell.GATES),
                "1" if isinstance(cell.state_size, int) else str(len(cell.state_size)),
                entry.paper,
            ]
        )
    header = ["name", "class", "other names", "variants", "gates", "states", "paper"]
    return table(header, rows)


def tolerance_table() -> str:
    rows = [
        [str(dtype).removeprefix("torch."), f"{line['value']:g}", f"{line['gradient']:g}"]
        for dtype, line in TOLERANCE.items()
    ]
    return table(["dtype", "outputs and states", "gradients"], rows)


def ulp_table() -> str:
    rows = [
        [f"`{name}`", f"{f32:g}", f"{f64:g}"]
        for name, _, f32, f64 in _native.op_table()
        if max(f32, f64) > 0
    ]
    return table(["function", "float32", "float64"], rows)


def op_table() -> str:
    groups: dict[str, list[str]] = {}
    for name, spec in OPS.items():
        groups.setdefault(spec.group.value, []).append(f"`{name}`")
    return table(["family", "operations"], [[g, " ".join(ops)] for g, ops in groups.items()])


def first_sentence(path: Path) -> str:
    text = path.read_text()
    if path.suffix == ".py":
        text = ast.get_docstring(ast.parse(text)) or ""
    else:
        comment = re.match(r"(//[^\n]*\n)+", text)
        text = re.sub(r"^// ?", "", comment[0], flags=re.MULTILINE) if comment else ""
    text = " ".join(text.split("\n\n")[0].split())
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text).replace("``", "`")
    return re.split(r"\.(?: |$)", text)[0].rstrip(":")


def files_table(folder: str) -> str:
    paths = sorted(p for p in (ROOT / folder).iterdir() if p.suffix in (".py", ".h", ".cpp"))
    rows = [
        [f"`{p.name}`", sentence]
        for p in paths
        if p.name != "__init__.py" and (sentence := first_sentence(p))
    ]
    return table(["file", "what it is"], rows)


TABLES: dict[str, Callable[[], str]] = {
    "cells": cells_table,
    "tolerance": tolerance_table,
    "ulp": ulp_table,
    "operations": op_table,
}
SECTION = re.compile(r"(<!-- begin (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def with_tables(text: str) -> str:
    def fill(match: re.Match[str]) -> str:
        kind, _, folder = match[2].partition(":")
        content = files_table(folder) if kind == "files" else TABLES[kind]()
        return f"{match[1]}{content}\n{match[3]}"

    return SECTION.sub(fill, text)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_tables_are_those_of_the_code(page: Path, renew: bool) -> None:
    text = page.read_text()
    if renew:
        page.write_text(with_tables(text))
        return
    assert text.splitlines() == with_tables(text).splitlines()


def test_each_table_is_shown() -> None:
    shown = {m[2] for page in PAGES for m in SECTION.finditer(page.read_text())}
    folders = {
        str(p.parent.relative_to(ROOT))
        for p in [*(ROOT / "src").rglob("*.py"), *(ROOT / "native").iterdir()]
    }
    # The cells have a table of their own.
    folders -= {"src/ostinato/cells"}
    wanted = {*TABLES, *(f"files:{folder}" for folder in folders)}
    assert not shown - wanted
    assert not wanted - shown, "docs/layout.md needs a section `<!-- begin ... -->` for these"


# ---- the rest


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_files_that_are_named_exist(page: Path) -> None:
    pattern = r"`((?:src|native|tests|docs|examples|benchmarks|\.ci)/[\w./-]+)`"
    for name in re.findall(pattern, page.read_text()):
        assert (ROOT / name).exists(), name


def test_all_pages_are_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    for page in PAGES:
        if page.parent.name == "docs" and page.name != "index.md":
            assert f"]({page.name})" in index, page.name


def test_ci_runs_the_readmes_test_command() -> None:
    commands = re.findall(r"^python3 -m venv .*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(commands) == 2
    assert commands[1].endswith("-m pytest")
    assert commands[1] in (ROOT / ".ci" / "run").read_text().splitlines()


def test_the_license_is_whole() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_the_version_is_the_same_everywhere() -> None:
    version = ostinato.__version__
    assert f'version = "{version}"' in (ROOT / "pyproject.toml").read_text()
    assert f"project(ostinato VERSION {version} " in (ROOT / "CMakeLists.txt").read_text()
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()


def test_examples_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    """With little work; an unknown option would end it."""
    shutil.copy(ROOT / "examples" / "any_cell.py", tmp_path / "any_cell_example.py")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "argv", ["any_cell.py", "--steps", "6", "--updates", "6"])
    import any_cell_example  # type: ignore[import-not-found]

    any_cell_example.main()
    assert "plain PyTorch loop" in capsys.readouterr().out
