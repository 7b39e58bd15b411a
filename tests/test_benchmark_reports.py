"""What the benchmarks make of results: verdicts on the targets, files, tables, pages."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # the benchmarks aren't installed

from benchmarks import contests, report, results, targets
from benchmarks.contests import Entry
from benchmarks.peers import OURS
from benchmarks.problems import GRIDS
from benchmarks.results import SCHEMA
from benchmarks.work import floor, row_steps

from benchmark_records import results_of, timed

ROOT = Path(__file__).parents[1]
main = importlib.import_module("benchmarks.__main__").main


def test_the_ratio_at_the_floor_stands_beside_it() -> None:
    problem = GRIDS["training"][0]
    measured = results_of(timed("training", problem, ostinato=1e-3, torch_nn=2e-3))
    most = 2e-3 / floor(problem).seconds(4e11, 4e10)
    assert f"; {most:.2f}x if ours took its floor" in targets.findings(measured)[0].measured
    measured["limits"][0]["flop_per_s"] = None  # no C compiler
    assert "floor" not in targets.findings(measured)[0].measured


def verdicts(measured: dict[str, Any], number: int) -> set[str]:
    return {f.verdict for f in targets.findings(measured) if f.number == number}


def is_jax(record: dict[str, Any]) -> bool:
    """Of the first problem, that is."""
    first = GRIDS["training"][0].name
    return bool(record["contestant"] == "jax_scan" and record["name"] == first)


@pytest.mark.parametrize(("ours", "verdict"), [(1e-3, "met"), (3.1e-3, "open")])
def test_targets_one_and_two(ours: float, verdict: str) -> None:
    records = [
        record
        for suite in ("training", "inference")
        for problem in GRIDS[suite]
        for record in timed(
            suite, problem, ostinato=ours, torch_nn=3e-3, jax_scan=4e-3, onnxruntime=5e-3
        )
    ]
    measured = results_of(records)
    assert verdicts(measured, 1) == verdicts(measured, 2) == {verdict}
    # A peer less, or a point: what holds for the rest is no verdict on the whole.
    if verdict == "met":
        for status in ("missing", "failed", "wrong"):
            short = [{**r, "status": status} if is_jax(r) else r for r in records]
            assert verdicts(results_of(short), 1) == {"not measured in full"}
            assert "not everywhere: jax_scan" in targets.summary(results_of(short))
        short = [r for r in records if not is_jax(r)]
        assert verdicts(results_of(short), 1) == {"not measured in full"}
        can_not = [{**r, "status": "unsupported"} if is_jax(r) else r for r in records]
        assert verdicts(results_of(can_not), 1) == {"met"}
    fewer = [r for r in records if r["name"] != GRIDS["training"][0].name]
    assert verdicts(results_of(fewer), 1) == {
        "not measured in full" if verdict == "met" else verdict
    }
    wrong = [{**r, "status": "wrong"} if r["contestant"] == OURS else r for r in records]
    assert verdicts(results_of(wrong), 1) == {"open"}
    assert "1. training" in targets.summary(measured)


@pytest.mark.parametrize(("seconds", "verdict"), [(1e-3, "met"), (1.0, "open")])
def test_target_three(seconds: float, verdict: str) -> None:
    problems = GRIDS["training"]
    records = [r for p in problems for r in timed("training", p, ostinato=seconds)]
    assert verdicts(results_of(records), 3) == {verdict}


@pytest.mark.parametrize(("share", "verdict"), [(1.1, "met"), (1.2, "open")])
def test_targets_four_to_seven(share: float, verdict: str) -> None:
    records = []
    for problem in GRIDS["cells"]:
        times = {"ostinato": share, "ostinato_lstm": 1 / share, "torch_loop": 20 + 10 / share**2}
        records += timed("cells", problem, **times)
    for problem in GRIDS["lengths"]:
        part = row_steps(problem) / (problem.T * problem.B)
        both = {"ostinato": share * part, "ostinato_packed": share * part}
        records += timed("lengths", problem, **both, ostinato_full=1.0)
    for problem in GRIDS["overhead"]:
        limit = 25e-6 if problem.mode == "infer" else 80e-6
        records += timed("overhead", problem, ostinato=limit * share / 1.15)
    for problem in GRIDS["scaling"]:
        records += timed("scaling", problem, **{"ostinato@1": 1.7, "ostinato@2": share / 1.15})
    found = targets.findings(results_of(records))
    by_number = {n: [f for f in found if f.number == n and f.met is not None] for n in (4, 5, 6, 7)}
    for number in (5, 6, 7):
        assert {f.verdict for f in by_number[number]} == {verdict}
    assert {f.verdict for f in by_number[4] if "LSTM's time" in f.target} == {verdict}


def test_target_eight_needs_the_truth_about_what_is_kept() -> None:
    def record(peer: str, peak: int, **more: int) -> dict[str, Any]:
        problem = GRIDS["memory"][0]
        base = contests._record("memory", problem, Entry(peer, peer, problem, 2))
        return {**base, "peak_bytes": peak, **more}

    theirs = record("torch_nn", 10 << 20)
    honest = record(OURS, 9 << 20, kept_bytes=5, told_bytes=5)
    for ours, verdict in (
        (honest, "met"),
        ({**honest, "told_bytes": 4}, "open"),
        ({**honest, "peak_bytes": 11 << 20}, "open"),
    ):
        measured = results_of([ours, theirs])
        assert verdicts(measured, 8) == {verdict, "not measured"}
        assert "| 10.00 |" in report.suite_table(measured, "memory")


def test_the_conditions_say_what_the_cpus_did() -> None:
    measured = results_of(timed("training", GRIDS["training"][0], ostinato=1.0, torch_nn=2.0))
    measured["limits"][0] |= {"flop_per_s": 1e11, "bytes_per_s": 1e10}
    assert "awake" not in report.conditions(measured)
    assert "round trip" not in report.conditions(measured)
    measured["awake"] = True
    measured["limits"][0]["round_trips_s"] = [3e-7, 6e-8, 7e-8]
    assert "CPUs kept awake" in report.conditions(measured)
    assert "a round trip between CPUs 70 ns (60 to 300)" in report.conditions(measured)


def test_the_conditions_say_how_much_was_undisturbed() -> None:
    problem = GRIDS["training"][0]
    measured = results_of(timed("training", problem, ostinato=1.0, torch_nn=2.0))
    measured["limits"][0] |= {"flop_per_s": 1e11, "bytes_per_s": 1e10}
    assert "undisturbed" not in report.conditions(measured)
    for record in measured["records"]:
        record["calm"] = True
    assert "1 of 1 problems in undisturbed turns alone" in report.conditions(measured)


def test_files_of_runs_merge_by_problem() -> None:
    first, second = GRIDS["training"][:2]
    old = results_of(
        [*timed("training", first, ostinato=2.0), *timed("training", second, ostinato=4.0)]
    )
    infer = results_of(timed("inference", GRIDS["inference"][0], ostinato=3.0))
    new = results_of(timed("training", first, ostinato=1.0), started="later", commit="f" * 40)
    both = report_of(old, infer, new)
    assert [r["median_s"] for r in both["records"]] == [1.0, 4.0, 3.0]
    assert len(both["limits"]) == 3
    text = report.conditions(both)
    assert f"- commit 0123456789ab: training [2] ({second.name}), inference [2]\n" in text
    assert f"- commit {'f' * 12}: training [2] ({first.name})\n" in text
    assert "- torch 2.13, jax (not installed)\n" in text  # of all of them
    # What has nothing left doesn't count.
    again = results_of(old["records"], started="latest")
    assert {r["started"] for r in report_of(both, again)["limits"]} == {
        "latest",
        infer["limits"][0]["started"],
    }
    assert report_of(old, old) == old
    with pytest.raises(ValueError, match="quick"):
        report_of(old, {**new, "quick": True})
    with pytest.raises(ValueError, match="awake"):
        report_of(old, {**new, "awake": True})


def report_of(*many: dict[str, Any]) -> dict[str, Any]:
    return results.merged(list(many))


def test_two_runs_of_scaling_have_one_race_of_a_problem() -> None:
    problem = GRIDS["scaling"][0]
    races = []
    for started, seconds in (("a", 2.0), ("b", 1.0)):
        records = [
            *timed("scaling", problem, 1, **{"ostinato@1": 2 * seconds}),
            *timed("scaling", problem, 2, **{"ostinato@2": seconds}),
        ]
        race = results_of(records, started=started)
        races.append({**race, "limits": [r for r in race["limits"] if r["threads"] == 2]})
    both = report_of(*races)
    assert [r["median_s"] for r in both["records"]] == [2.0, 1.0]
    assert len(both["limits"]) == 1
    # The rate is that of the most threads, of which a machine may have others than two.
    rate = f"| {both['records'][1]['flop'] / 1e9:.0f} |"
    assert rate in report.suite_table(both, "scaling")
    for record in both["records"]:
        record["contestant"] = record["contestant"].replace("@2", "@4")
    both["records"][1]["threads"] = both["limits"][0]["threads"] = 4
    assert rate in report.suite_table(both, "scaling")


def test_files_of_schema_one_are_read(tmp_path: Path) -> None:
    new = results_of(timed("training", GRIDS["training"][0], ostinato=1.0, torch_nn=2.0))
    told = new["limits"][0]
    old = {
        "schema": 1,
        "revision": {"commit": told["commit"], "changed": False},
        **{key: told[key] for key in ("command", "started", "versions", "load")},
        **{key: new[key] for key in ("quick", "machine", "awake")},
        "limits": [{key: told[key] for key in ("suite", "threads", "flop_per_s", "bytes_per_s")}],
        "records": [{k: v for k, v in r.items() if k != "started"} for r in new["records"]],
    }
    file = tmp_path / "old.json"
    file.write_text(json.dumps(old))
    assert results.read(file) == new


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    results.save(file, {"schema": SCHEMA})
    with pytest.raises(TypeError):
        results.save(file, {"schema": object()})
    assert json.loads(file.read_text()) == {"schema": SCHEMA}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        ('{"schema": 2, "lim', "isn't whole"),
        ("[1, 2]", "isn't of python -m benchmarks"),
        ('{"curves": []}', "isn't of python -m benchmarks"),
        ('{"schema": 1, "runs": []}', "no results of suites"),
        ('{"schema": 7}', "has schema 7"),
    ],
)
def test_a_table_of_something_else_is_one_clear_line(
    tmp_path: Path, content: str | None, said: str
) -> None:
    file = tmp_path / "results.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SystemExit, match=said) as refused:
        main(["table", str(file)])
    assert str(file) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_pages_are_filled_between_marks() -> None:
    found = results_of(timed("training", GRIDS["training"][0], ostinato=1e-3, torch_nn=2e-3))
    page = "a\n<!-- measured: training -->\nold\n<!-- end measured -->\nb\n"
    filled, left = report.filled(page, found)
    assert not left
    assert "old" not in filled
    assert "torch_nn, 2.00x" in filled
    assert filled.startswith("a\n")
    assert filled.endswith("\nb\n")
    assert report.filled(filled, found) == (filled, [])
    with pytest.raises(ValueError, match="'nothing'"):
        report.filled(page.replace("training", "nothing"), found)
    with pytest.raises(ValueError, match="has no <!-- measured"):
        report.filled("a\n", found)


def test_what_was_not_measured_stays_on_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("conditions", "training", "inference")
    marks = [f"<!-- measured: {name} -->\nold {name}\n<!-- end measured -->\n" for name in names]
    page, file = tmp_path / "page.md", tmp_path / "results.json"
    page.write_text("".join(marks))
    train = results_of(timed("training", GRIDS["training"][0], ostinato=1e-3, torch_nn=2e-3))
    results.save(file, train)
    main(["table", str(file), "--write", str(page)])
    assert capsys.readouterr().err == (
        "left as they were, for want of records: inference, conditions\n"
    )
    assert [name for name in names if f"old {name}" in page.read_text()] == [
        "conditions",
        "inference",
    ]
    infer = results_of(timed("inference", GRIDS["inference"][0], ostinato=1e-3, torch_nn=2e-3))
    results.save(file, report_of(train, infer))
    main(["table", str(file), "--write", str(page)])
    assert capsys.readouterr().err == ""
    assert "old" not in page.read_text()


def test_a_page_shows_every_section() -> None:
    page = (ROOT / "docs" / "performance.md").read_text()
    for name in report.sections():
        assert f"<!-- measured: {name} -->" in page


def test_comparisons_say_what_is_within_the_spread_and_of_what() -> None:
    base = {"status": "ok", "median_s": 2e-3, "low_s": 1.9e-3, "high_s": 2.1e-3}
    this = {"status": "ok", "median_s": 1e-3, "low_s": 0.9e-3, "high_s": 1.1e-3}
    record = {"name": "p", "threads": 1, "status": "ok", "note": "", "base": base, "this": this}
    found = {
        "base": "0123456789abcdef",
        "revision": {"commit": "f" * 40, "changed": True, "stale": False},
        "records": [record],
        "awake": False,
    }
    told = report.comparison(found)
    assert "2.000x" in told
    assert "within spread" not in told
    assert "awake" not in told
    assert told.startswith(f"- base: commit 0123456789ab\n- this: commit {'f' * 12} with changes\n")
    assert "awake" in report.comparison({**found, "awake": True})
    close = {**record, "this": {**this, "high_s": 2e-3}}
    assert "within spread" in report.comparison({**found, "records": [close]})
    wrong = {**record, "status": "wrong", "note": "base: too far"}
    assert "base: too far" in report.comparison({**found, "records": [wrong]})


def test_figures_have_no_exponents() -> None:
    values = (3414.2, 999.7, 12.345, 0.006974, 2.2e-5, 0.0)
    assert [targets.digits(v) for v in values] == [
        "3410",
        "1000",
        "12.3",
        "0.00697",
        "0.000022",
        "0",
    ]
    assert [targets.duration(v) for v in (9.997e-4, 1.5, 2e-3, 25e-6)] == [
        "1000 µs",
        "1.5 s",
        "2 ms",
        "25 µs",
    ]
