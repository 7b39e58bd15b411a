"""The benchmarks' machinery on tiny shapes, with PyTorch alone: registry, gate, clock, limits."""

from __future__ import annotations

import json
import os
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # the benchmarks aren't installed

from benchmarks import measure, memory, peers, report, targets
from benchmarks.case import make_case, oracle, worst_error
from benchmarks.cells import GATES, make_cell, state_sizes
from benchmarks.contests import CONTESTS, Entry, contest, entries_of
from benchmarks.measure import (
    Effort,
    Spread,
    copied_bytes_per_s,
    peak_flop_per_s,
    race,
    round_trip_s,
)
from benchmarks.memory import kept
from benchmarks.peers import OURS, PEERS, Runner, UnsupportedError, prepare
from benchmarks.problems import GRIDS, Problem, chosen, review_lengths
from benchmarks.watch import Watch, awake
from benchmarks.work import floor, row_steps

from benchmark_records import results_of

ROOT = Path(__file__).parents[1]
EFFORT = Effort(rounds=2, seconds=0.0, pause=0.0)
TRAIN = Problem("lstm", 4, 3, 5, 6)
#: Peers that need nothing but PyTorch and no compiler.
PLAIN = ("torch_nn", "torch_nn_packed", "torch_loop")


def test_problems_have_names_of_their_own_and_cells() -> None:
    for suite, problems in GRIDS.items():
        assert len({p.name for p in problems}) == len(problems), suite
        assert {p.cell for p in problems} <= GATES.keys()
    assert len(GRIDS["training"]) == len(GRIDS["inference"]) == 24


def test_all_suites_have_contestants() -> None:
    assert {*CONTESTS, "memory"} == set(GRIDS)
    for suite in CONTESTS:
        for problem in GRIDS[suite]:
            entries = entries_of(suite, problem, 2, None)
            assert {e.peer for e in entries} <= PEERS.keys()
            assert len({e.label for e in entries}) == len(entries)
            assert entries[0].peer.startswith(OURS)
            assert all(e.peer.startswith(OURS) for e in entries_of(suite, problem, 2, []))


def test_all_peers_have_a_file() -> None:
    for module in PEERS.values():
        assert (ROOT / "benchmarks" / "peers" / f"{module.split(':')[0]}.py").exists()


def test_all_files_are_introduced() -> None:
    told = (ROOT / "benchmarks" / "__init__.py").read_text()
    for file in (ROOT / "benchmarks").glob("*.py"):
        assert file.stem == "__init__" or f"``{file.stem}``" in told, file.name


def test_small_calls_have_the_peers_that_are_made_for_them() -> None:
    for problem in GRIDS["overhead"]:
        entering = {e.peer for e in entries_of("overhead", problem, 1, None)}
        assert {"jax_scan", "onnxruntime"} <= entering


@pytest.mark.parametrize("mode", ["train", "infer"])
@pytest.mark.parametrize("peer", ["jax_scan", "onnxruntime"])
def test_contestants_of_other_libraries_are_right(peer: str, mode: str) -> None:
    pytest.importorskip({"jax_scan": "jax"}.get(peer, peer))
    for cell in GATES:
        case = make_case(Problem(cell, 4, 3, 5, 6, mode))
        try:
            _, found = peers.checked(peer, case, oracle(case))
        except UnsupportedError:
            assert peer != "jax_scan"  # it has all cells
        else:
            assert found["status"] == "ok", (cell, found["where"])


@pytest.mark.parametrize("peer", [OURS, "torch_nn", "torch_nn_packed", "torch_loop"])
def test_fit_is_for_keras(peer: str) -> None:
    with pytest.raises(UnsupportedError):
        prepare(peer, make_case(Problem("lstm", 4, 3, 5, 6, "fit")))


def test_quick_problems_are_small_and_of_the_same_kind() -> None:
    for suite, problems in GRIDS.items():
        quick = chosen(suite, quick=True)
        assert {(p.cell, p.mode, p.lengths) for p in quick} == {
            (p.cell, p.mode, p.lengths) for p in problems
        }
        assert all(floor(p).flop < 1e6 for p in quick)


def test_lengths_are_those_of_reviews() -> None:
    lengths = review_lengths()
    assert len(lengths) == 64
    assert max(lengths) == 1000
    assert abs(statistics.median(lengths) - 174) <= 4
    assert abs(statistics.mean(lengths) - 230) <= 4
    assert lengths == review_lengths()
    assert sorted(lengths) != lengths
    assert row_steps(GRIDS["lengths"][0]) == sum(lengths)
    assert max(review_lengths(5, 12)) == 12


def test_products_are_counted_as_the_parameters_say() -> None:
    """A weight of n elements takes 2 n FLOP a row and step forward, 6 n forward and backward."""
    for name in GATES:
        cell = make_cell(name, 5, 7, torch.float32)
        weights = sum(p.numel() for p in cell.parameters() if p.dim() == 2)
        for mode, factor in (("infer", 2), ("train", 6)):
            problem = Problem(name, 3, 2, 5, 7, mode=mode)
            assert floor(problem).flop == factor * 3 * 2 * weights
        assert len(state_sizes(cell)) in (1, 2)


def test_the_floor_is_the_slower_of_two() -> None:
    least = floor(Problem("elman", 1, 1, 1, 1, mode="infer"))
    assert (least.flop, least.bytes) == (4, 16)
    assert least.seconds(1.0, 1e9) == 4.0
    assert least.seconds(1e9, 1.0) == 16.0


def test_fit_has_no_output_of_all_steps() -> None:
    """Nor its cotangent; but what backward needs of the states is written and read."""
    T, B, width, H = 7, 3, 5, 6
    for cell, states in (("gru", 1), ("lstm", 2)):
        problem = Problem(cell, T, B, width, H, "fit")
        weights = sum(p.numel() for p in make_case(problem).parameters().values() if p.dim() == 2)
        ends = B * H
        moved = 2 * T * B * width + 2 * states * T * B * H + 2 * ends + 2 * weights
        assert floor(problem).bytes == 4 * moved
        step = floor(replace(problem, mode="step"))
        assert step.bytes - floor(problem).bytes == 4 * (T * B * H - 2 * ends)
        assert step.flop == floor(problem).flop


def contestants() -> list[tuple[str, Problem]]:
    """Each plain contestant with each kind of problem that it is for."""
    standard, special = ("elman", "gru", "lstm"), ("lstm_layer_norm", "own")
    can = {
        OURS: (standard + special, ("train", "infer", "step")),
        "ostinato_packed": (standard, ("train", "infer")),
        "torch_nn": (standard, ("train", "infer", "step")),
        "torch_nn_packed": (standard, ("train", "infer")),
        "torch_loop": (standard + special, ("train", "infer")),
    }
    return [
        (peer, Problem(cell, 4, 3, 5, 6, mode, lengths="reviews" if "packed" in peer else "full"))
        for peer, (cells, modes) in can.items()
        for cell in cells
        for mode in modes
    ]


@pytest.mark.parametrize(("peer", "problem"), contestants(), ids=lambda v: getattr(v, "name", v))
def test_contestants_are_right(peer: str, problem: Problem) -> None:
    case = make_case(problem)
    runner = prepare(peer, case)
    error, where = worst_error(runner.collect(runner.call()), oracle(case), "float32")
    assert error <= 1, where


def test_lengths_are_right() -> None:
    case = make_case(replace(TRAIN, lengths="reviews"))
    runner = prepare(OURS, case)
    error, where = worst_error(runner.collect(runner.call()), oracle(case), "float32")
    assert error <= 1, where


def test_the_comparison_sees_what_is_wrong() -> None:
    want = oracle(make_case(TRAIN))
    assert worst_error(want, want, "float32") == (0.0, "")
    for name, spoil in {
        "y": lambda t: t + 1e-3,
        "dx": lambda t: t * float("nan"),
        "d weight_hh": lambda t: t.roll(1, 0),
        "dstate.1": lambda t: t[:1],
    }.items():
        error, where = worst_error({**want, name: spoil(want[name])}, want, "float32")
        assert not error <= 1
        assert where == name
    assert worst_error({"y": want["y"]}, want, "float32")[0] == float("inf")


def run(problem: Problem, *peers: str) -> list[dict[str, Any]]:
    entries = [Entry(p, p, problem, 1) for p in (OURS, *peers)]
    return contest("training", problem, entries, EFFORT)


def test_a_race_gives_figures() -> None:
    before = torch.get_num_threads()
    records = run(TRAIN, *PLAIN)
    assert torch.get_num_threads() == before
    ours, nn, packed, loop = records
    assert [r["status"] for r in records] == ["ok", "ok", "unsupported", "ok"]
    for record in (ours, nn, loop):
        assert 0 < record["low_s"] <= record["median_s"] <= record["high_s"]
        assert record["error"] <= 1
    assert "median_s" not in packed
    assert targets.ratio(records) is not None
    json.dumps(records)


def test_a_wrong_result_has_no_time_and_no_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    def slightly_wrong(peer: str, case: Any) -> Runner:
        runner = prepare(peer, case)
        if peer != OURS:
            return runner

        def collect(done: Any) -> Any:
            results = runner.collect(done)
            return {**results, "d weight_ih": results["d weight_ih"] * 1.01}

        return Runner(runner.call, collect)

    monkeypatch.setattr(peers, "prepare", slightly_wrong)
    records = run(TRAIN, "torch_nn")
    assert [r["status"] for r in records] == ["wrong", "ok"]
    assert "median_s" not in records[0]
    assert "d weight_ih" in records[0]["note"]
    assert targets.ratio(records) is None
    results = results_of(records)
    assert "| wrong |" in report.suite_table(results, "training")
    assert "no ratio" in report.suite_table(results, "training")


def test_a_peer_that_fails_in_its_turn_is_out_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def tiring(peer: str, case: Any) -> Runner:
        runner = prepare(peer, case)
        calls = iter(range(4))

        def call() -> Any:
            if peer != OURS and next(calls, None) is None:
                raise MemoryError("no more")
            return runner.call()

        return Runner(call, runner.collect)

    monkeypatch.setattr(peers, "prepare", tiring)
    ours, theirs = run(TRAIN, "torch_nn")
    assert ours["status"] == "ok"
    assert ours["samples"] == 2
    assert (theirs["status"], theirs["note"]) == ("failed", "MemoryError: no more")
    assert "median_s" not in theirs


def test_a_missing_peer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(peer: str, case: Any) -> Runner:
        if peer == OURS:
            return prepare(peer, case)
        raise ModuleNotFoundError("No module named 'jax'")

    monkeypatch.setattr(peers, "prepare", missing)
    records = run(TRAIN, "jax_scan")
    assert [r["status"] for r in records] == ["ok", "missing"]
    assert "jax_scan: missing: No module named 'jax'" in report.suite_table(
        results_of(records), "training"
    )


@pytest.mark.parametrize("problem", [TRAIN, Problem("gru", 6, 2, 3, 5), Problem("own", 3, 2, 4, 5)])
def test_what_is_kept_is_as_explained(problem: Problem) -> None:
    found = kept(make_case(problem))
    assert found["kept_bytes"] == found["told_bytes"] > 0


def test_turns_are_interleaved() -> None:
    order: list[str] = []

    def turn(name: str) -> Any:
        def take(calls: int, inner: int) -> list[float]:
            order.append(name)
            return [1.0] * calls

        return take

    spreads = race({"a": turn("a"), "b": turn("b")}, Effort(rounds=3, seconds=6.0, pause=0.0))
    assert order == ["a", "b", "a", "b", "b", "a", "a", "b"]
    assert spreads["a"] == Spread(1.0, 1.0, 1.0, 6)


def _slow_while_disturbed(state: dict[str, bool]) -> Any:
    return lambda calls, inner: [1.0 if state["calm"] else 9.0] * calls


def test_disturbed_turns_do_not_count_where_there_are_others() -> None:
    """Every fourth look finds the machine disturbed; turns take nine times as long then."""
    state = {"calm": True, "looks": 0}

    def calm() -> bool:
        state["looks"] += 1
        state["calm"] = state["looks"] % 4 != 0
        return state["calm"]

    turns = {"a": _slow_while_disturbed(state), "b": _slow_while_disturbed(state)}
    spreads = race(turns, Effort(rounds=8, seconds=8.0, pause=0.0), calm)
    for spread in spreads.values():
        assert spread.calm
        assert (spread.median, spread.high) == (1.0, 1.0)
        assert 3 <= spread.samples < 8


def test_a_machine_that_is_never_calm_is_measured_as_it_is() -> None:
    turns = {"a": _slow_while_disturbed({"calm": False})}
    spreads = race(turns, Effort(rounds=3, seconds=27.0, pause=0.0), lambda: False)
    assert spreads["a"] == Spread(9.0, 9.0, 9.0, 3, calm=False)


def test_with_patience_turns_begin_when_the_machine_is_calm() -> None:
    """It is at every third look; without patience no turn would have calm on both sides."""
    looks = iter(range(10_000))
    effort = Effort(rounds=3, seconds=3.0, pause=0.0)

    def calm() -> bool:
        return next(looks) % 3 != 0

    spreads = race({"a": lambda calls, inner: [1.0] * calls}, replace(effort, patience=30.0), calm)
    assert spreads["a"] == Spread(1.0, 1.0, 1.0, 3, calm=True)


def test_the_watch_sees_calm_and_disturbance(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1.0] * 50 + [1.1, 1.2, 0.5, 0.6])
    monkeypatch.setattr(Watch, "_probe", lambda self, cpu: next(times))
    monkeypatch.delattr("os.sched_getaffinity", raising=False)  # one CPU, whichever
    watching = Watch()
    assert [watching.calm() for _ in range(4)] == [True, False, True, False]


def test_a_look_leaves_the_process_its_cpus() -> None:
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("this system doesn't say which CPUs a process has")
    before = os.sched_getaffinity(0)
    Watch().calm()
    assert os.sched_getaffinity(0) == before


def test_cpus_stay_awake_while_the_file_is_open(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("benchmarks.watch.LATENCY", tmp_path / "latency")
    with awake():
        assert (tmp_path / "latency").read_bytes() == b"\0\0\0\0"
    monkeypatch.setattr("benchmarks.watch.LATENCY", tmp_path / "none" / "latency")
    with pytest.raises(SystemExit, match="--awake needs Linux"), awake():
        pass


def test_the_spread_is_median_and_quartiles() -> None:
    assert Spread.of([1.0, 2.0, 3.0, 4.0, 100.0]) == Spread(3.0, 2.0, 4.0, 5)
    assert Spread.of([2.0]) == Spread(2.0, 2.0, 2.0, 1)


@pytest.mark.parametrize(("compiler", "said"), [("false", "false can't"), ("nosuch", "nosuch")])
def test_a_compiler_that_fails_is_told(
    monkeypatch: pytest.MonkeyPatch, compiler: str, said: str
) -> None:
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setattr(measure, "_compiled", measure._compiled.__wrapped__)  # no cache
    assert said in measure.without_limits()
    assert measure.peak_flop_per_s(1) is None


def test_peaks_are_of_the_peers_that_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: dict[str, dict[str, Any]] = {
        OURS: {"status": "ok", "note": "", "peak_bytes": 5, "error": 0.5, "kept_bytes": 3},
        "torch_nn": {"status": "wrong", "note": "too far", "peak_bytes": 7, "error": 2.0},
    }
    monkeypatch.setattr(memory, "_ask", lambda peer, problem, threads: dict(answers[peer]))
    ours, theirs = memory.memory_records(TRAIN, 1, 3, None)
    assert (ours["peak_bytes"], ours["samples"]) == (5, 3)
    assert theirs["status"] == "wrong"
    assert "peak_bytes" not in theirs
    alone = memory.memory_records(TRAIN, 1, 1, [])
    assert [r["contestant"] for r in alone] == [OURS]
    assert "| 0.00 | - | 0.00 | - |" in report.suite_table(results_of(alone), "memory")


def test_limits_are_measured() -> None:
    peak = peak_flop_per_s(1, seconds=1e-3, repeats=1)
    copied = copied_bytes_per_s(2, size=1 << 20, repeats=1)
    trip = round_trip_s(times=100, repeats=1)
    assert peak is None or 1e8 < peak < 1e13
    assert copied is None or 1e7 < copied < 1e13
    assert trip is None or 1e-9 < trip < 1
