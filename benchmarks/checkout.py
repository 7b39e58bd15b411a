"""Whether the ostinato that is measured is the one whose commit is told."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from benchmarks.measure import ROOT


def imported() -> Path:
    """The folder of the package that this interpreter would import.

    Raises:
        SystemExit: there is none.
    """
    spec = importlib.util.find_spec("ostinato")
    if spec is None or spec.origin is None:
        raise SystemExit("ostinato isn't installed: pip install -c constraints.txt '.[dev]'")
    return Path(spec.origin).parent


def check(package: Path, tree: Path = ROOT) -> None:
    """An installed copy is as good as the checkout's own folder where it has the same sources.

    Raises:
        SystemExit: the package is neither.
    """
    sources = tree / "src" / "ostinato"
    if package.resolve() == sources.resolve():
        return
    differing = sorted({name for name, _ in _contents(package) ^ _contents(sources)})
    if differing:
        more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
        raise SystemExit(
            f"what would be measured is {package}, but its {differing[0]}{more} isn't that of "
            f"{sources}: install it again, pip install -c constraints.txt '.[dev]', or put src/ on "
            "the path (CONTRIBUTING.md)"
        )


def _contents(folder: Path) -> set[tuple[str, bytes]]:
    return {(str(p.relative_to(folder)), p.read_bytes()) for p in folder.rglob("*.py")}


def stale(package: Path, tree: Path = ROOT) -> bool:
    """Whether a source of the compiled module is newer than it, which may yet be its content's.

    Where the module lies elsewhere than in the package it can't be told.
    """
    built = [p.stat().st_mtime for p in package.glob("_native.*") if p.suffix != ".pyi"]
    sources = [tree / "CMakeLists.txt", *(tree / "native").iterdir()]
    return bool(built) and min(built) < max(p.stat().st_mtime for p in sources)
