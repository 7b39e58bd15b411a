"""The benchmarks' command line: options, whose sources it measures, what it keeps and compares."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # the benchmarks aren't installed

from benchmarks import checkout, compare, measure, tracing
from benchmarks.peers import OURS, UnsupportedError
from benchmarks.problems import GRIDS, Problem, small
from benchmarks.remote import Remote, RemoteError
from benchmarks.results import SCHEMA, save

import ostinato
from benchmark_records import results_of, timed

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
TRAIN = Problem("lstm", 4, 3, 5, 6)
command: Any = importlib.import_module("benchmarks.__main__")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--threads 0", "0 isn't 1 or more"),
        ("--threads 1 1", "--threads 1 1: each once"),
        ("--threads 1000000", "CPUs"),
        ("--rounds 0", "0 isn't 1 or more"),
        ("--rounds x", "isn't of type int"),
        ("--seconds -1", "-1 isn't 0 or more"),
        ("--seconds nan", "nan isn't 0 or more"),
        ("--match nosuch", "no problem of training"),
        ("--grid training --match new-shape", "no problem of training"),
        ("--json /no/such/folder/results.json", "no folder to write in"),
        ("--base HEAD --grid memory", "--base compares training"),
        ("--base HEAD --peers torch_nn", "takes no --peers"),
        ("--base HEAD --match new-shape", "no problem of training"),
    ],
)
def test_what_can_not_be_done_is_said_at_once(
    words: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command.arguments(words.split())
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_figures_of_tracing_match_by_name() -> None:
    assert command.arguments(["--match", "new-shape"]).match == "new-shape"
    assert tracing.traced("new-shape") == ["new-shape"]
    assert len(tracing.traced("")) == 3
    assert tracing.traced("tracing") == []


def test_the_command_runs(tmp_path: Path) -> None:
    """End to end in processes of its own: one suite, ours alone, then its table."""
    file = tmp_path / "results.json"
    options = ["--grid", "overhead", "--match", "elman-infer", "--quick", "--threads", "1"]
    words = [sys.executable, "-m", "benchmarks", *options, "--peers", "--json", str(file)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "elman-infer-1x1x8x8" in done.stdout
    results = json.loads(file.read_text())
    assert results["schema"] == SCHEMA
    assert {"command", "commit", "versions", "load"} <= results["limits"][0].keys()
    assert [r["status"] for r in results["records"]] == ["ok"]
    assert results["records"][0]["problem"] == small(GRIDS["overhead"][0]).asdict()
    page = tmp_path / "page.md"
    page.write_text("<!-- measured: overhead -->\n<!-- end measured -->\n")
    command.main(["table", str(file), "--write", str(page)])
    assert "elman-infer-1x1x8x8" in page.read_text()


def red(record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "status": "wrong", "note": "too far from float64 in y"}


@pytest.mark.parametrize(
    ("ends", "wrong", "code"),
    [("well", False, 0), ("well", True, 1), ("killed", False, 1), ("interrupted", False, 1)],
)
def test_what_was_measured_is_kept_however_it_ends(
    ends: str,
    wrong: bool,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    measured = results_of(timed("training", GRIDS["training"][0], ostinato=1e-3, torch_nn=2e-3))
    if wrong:
        measured["records"][0] = red(measured["records"][0])

    plain = subprocess.run

    def worker(words: list[str], **options: Any) -> subprocess.CompletedProcess[Any]:
        if "benchmarks.worker" not in words:
            return plain(words, **options)
        found = {"limits": measured["limits"][0], "records": measured["records"]}
        save(Path(json.loads(words[-1])["file"]), found)
        if ends == "interrupted":
            raise KeyboardInterrupt
        return subprocess.CompletedProcess(words, -9 if ends == "killed" else 0)

    monkeypatch.setattr(command.subprocess, "run", worker)
    file = tmp_path / "results.json"
    words = ["--grid", "training", "--threads", "1", "--json", str(file)]
    if code:
        with pytest.raises(SystemExit) as ended:
            command.main(words)
        assert ended.value.code == code
    else:
        command.main(words)
    kept = json.loads(file.read_text())
    assert len(kept["records"]) == 2
    assert kept["limits"][0]["commit"] == measure.revision()["commit"]
    output = capsys.readouterr()
    assert measured["records"][0]["name"] in output.out
    said = {"killed": "training on 1 threads ended early", "interrupted": "results so far"}
    assert said.get(ends, "") in output.err
    assert ("too far from float64 in y" in output.err) == wrong


def test_only_the_sources_of_the_checkout_are_measured(tmp_path: Path) -> None:
    tree, copy = tmp_path / "tree", tmp_path / "site-packages" / "ostinato"
    sources = tree / "src" / "ostinato"
    for folder in (sources, copy):
        (folder / "nn").mkdir(parents=True)
        (folder / "nn" / "layer.py").write_text("a = 1\n")
    checkout.check(sources, tree)
    checkout.check(copy, tree)
    (copy / "nn" / "layer.py").write_text("a = 2\n")
    (copy / "older.py").write_text("")
    with pytest.raises(SystemExit, match=r"its nn.layer\.py and 1 more isn't .*install it again"):
        checkout.check(copy, tree)
    checkout.check(checkout.imported())


def test_a_module_older_than_its_sources_is_told(tmp_path: Path) -> None:
    for name in ("CMakeLists.txt", "native/loop.cpp", "package/_native.pyi"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    package = tmp_path / "package"
    assert not checkout.stale(package, tmp_path)  # it lies elsewhere
    module = package / "_native.abi3.so"
    module.touch()
    for seconds, stale in ((1, False), (-60, True)):
        newest = (tmp_path / "native" / "loop.cpp").stat().st_mtime
        os.utime(module, (newest + seconds, newest + seconds))
        assert checkout.stale(package, tmp_path) == stale


def test_contestants_run_in_other_processes(tmp_path: Path) -> None:
    (tmp_path / "jax.py").write_text("raise ModuleNotFoundError(\"No module named 'jax'\")\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    with Remote(1, {"PYTHONPATH": path}) as remote:
        assert remote.prepare(OURS, TRAIN)["status"] == "ok"
        assert len(remote.turn(3, 1)) == 3
        with pytest.raises(UnsupportedError, match=r"^torch\.nn has no own$"):
            remote.prepare("torch_nn", replace(TRAIN, cell="own"))
        with pytest.raises(ImportError, match=r"^No module named 'jax'$"):
            remote.prepare("jax_scan", TRAIN)
        with pytest.raises(RemoteError, match="KeyError: 'nobody'"):
            remote.prepare("nobody", TRAIN)
        remote._process.kill()
        for _ in range(2):
            with pytest.raises(RemoteError, match="ended with status -9"):
                remote.turn(1, 1)


def test_processes_have_their_cpus_before_libraries_look_at_them() -> None:
    asked = (
        "import sys, benchmarks.remote, benchmarks.worker; print({'torch', 'jax'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", asked], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


def test_two_revisions_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The base is this revision, too, in a folder of its own."""

    @contextmanager
    def built(base: str) -> Iterator[Path]:
        (tmp_path / "src").mkdir()
        (tmp_path / "src" / "ostinato").symlink_to(Path(ostinato.__file__).parent)
        yield tmp_path

    monkeypatch.setattr(compare, "built", built)
    monkeypatch.setattr(compare, "_do", lambda words: "0123456789abcdef")
    file = tmp_path / "results.json"
    options = "--grid training --match elman-train-256x1x64x64 --quick --threads 1"
    command.main([*options.split(), "--base", "main", "--json", str(file)])
    found = json.loads(file.read_text())
    assert [r["status"] for r in found["records"]] == ["ok"]
    told = capsys.readouterr().out
    assert told.startswith("- base: commit 0123456789ab\n- this: commit ")
    assert "elman-train-12x1x10x9 | 1 |" in told
