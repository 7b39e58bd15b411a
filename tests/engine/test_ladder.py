"""The native engine against the eager loop in float64, for every registered cell.

All instruction sets of the machine, one to three threads and what they can divide, `lengths` x
`reverse` x `reset` and truncated BPTT, both dtypes, hidden sizes around the vector width. Scratch
memory starts as NaN.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from helpers import (
    CELL_CASES,
    CellCase,
    Run,
    assert_close,
    assert_same_run,
    random_input,
    random_state,
    randomise,
    run_and_differentiate,
)
from ostinato import Recurrent, _native, cells
from ostinato.engine import lowering

WIDTHS = {"baseline": 4, "avx2": 8, "avx512": 16}  # of a float32 vector
ISAS = _native.available_isas()
#: (lengths, reverse, reset, bptt)
MODES = [
    (*flags, None) for flags in itertools.product((False, True), (False, True), (False, True))
] + [(False, False, False, 2), (True, True, True, 3), (True, False, False, 1)]
#: (threads, what they divide)
DIVISIONS = [
    (1, "rows"),
    (2, "rows"),
    (2, "columns"),
    (2, "relay"),
    (2, "units"),
    (3, "relay"),
    (3, "units"),
]
#: The same by dtype: the engine is one template.
CHECKED = [(torch.float64, d) for d in DIVISIONS[:5]] + [
    (torch.float32, d) for d in (DIVISIONS[0], DIVISIONS[1], *DIVISIONS[5:])
]


def shapes(isa: str) -> list[tuple[int, int, int, int]]:
    """(T, B, I, H): hidden sizes 1, V - 1, V, V + 1, 2V + 3; steps 0, 1, 2, 7; odd batches."""
    v = WIDTHS[isa]
    return [
        (0, 2, 3, 2),
        (1, 1, 1, 1),
        (2, 3, v, v - 1),
        (7, 9, 3, v),
        (7, 5, v + 1, v + 1),
        (7, 13, 5, 2 * v + 3),
    ]


def options(steps: int, batch: int, mode: tuple[Any, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keywords of the layer and of its call."""
    ragged, reverse, reset, bptt = mode
    call: dict[str, Any] = {}
    if ragged:  # 0, T and what lies between, in no order
        call["lengths"] = torch.tensor([(b * 5 + steps) % (steps + 1) for b in range(batch)])
    if reset:
        draw = torch.Generator().manual_seed(5)
        call["reset"] = torch.rand(steps, batch, generator=draw) < 0.3
    return {"reverse": reverse, "bptt": bptt}, call


def divide(threads: int, what: str) -> None:
    torch.set_num_threads(threads)
    _native.set_testing(poison=True, divide=what)


def run(
    cell: torch.nn.Module, x: torch.Tensor, layer: dict[str, Any], call: dict[str, Any], engine: str
) -> Run:
    module = Recurrent(cell, engine=engine, **layer)
    batch = x.shape[1]
    state = random_state(cell, batch, dtype=x.dtype)
    return run_and_differentiate(
        lambda x, s: module(x, s, **call), x, state, dict(cell.named_parameters())
    )


def in_float64(run: Run) -> Run:
    return Run(
        run.output.double(),
        tuple(s.double() for s in run.state),
        None if run.dx is None else run.dx.double(),
        tuple(None if s is None else s.double() for s in run.dstate),
        {name: None if g is None else g.double() for name, g in run.dparameters.items()},
    )


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("case", CELL_CASES, ids=str)
def test_native_engine_agrees_with_the_eager_loop(case: CellCase, isa: str) -> None:
    _native.set_isa(isa)
    for number, (steps, batch, width, hidden) in enumerate(shapes(isa)):
        made = {
            dtype: randomise(case.make(width, hidden, dtype=dtype), seed=number)
            for dtype in (torch.float64, torch.float32)
        }
        x = random_input(steps, batch, width)
        for mode in MODES:
            layer, call = options(steps, batch, mode)
            torch.set_num_threads(1)
            want = run(made[torch.float64], x, layer, call, "eager")
            for dtype, division in CHECKED:
                divide(*division)
                got = run(made[dtype], x.to(dtype), layer, call, "native")
                rounding = 2e-6 / 1e-12 if dtype is torch.float32 else 1.0
                # float32 starts from rounded weights and inputs; the table's float32 line allows
                # for one operation, a step has some ten, on sums of up to `width + hidden` terms.
                assert_same_run(in_float64(got), want, times=rounding * 10)


@pytest.mark.parametrize("case", CELL_CASES, ids=str)
def test_inference_gives_the_same_bits_as_training(case: CellCase) -> None:
    cell = randomise(case.make(5, 17, dtype=torch.float32))
    layer = Recurrent(cell, engine="native")
    x, state = (
        random_input(7, 6, 5, dtype=torch.float32),
        random_state(cell, 6, dtype=torch.float32),
    )
    trained = layer(x, state)
    with torch.inference_mode():
        inferred = layer(x, state)
    assert torch.equal(trained[0], inferred[0])


@pytest.mark.parametrize("case", CELL_CASES, ids=str)
@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("what", ["relay", "units"])
def test_many_chunks(case: CellCase, what: str, threads: int) -> None:
    """Of 13 steps here; each chunk's buffers are used again, in a relay two chunks later."""
    cell = randomise(case.make(5, 9, dtype=torch.float64))
    x = random_input(97, 5, 5)
    for mode in ((False, False, False, None), (True, True, True, 20)):
        layer, call = options(97, 5, mode)
        want = run(cell, x, layer, call, "eager")
        divide(threads, what)
        assert_same_run(run(cell, x, layer, call, "native"), want, times=10)


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("width", [1, 2, 3])
def test_inputs_narrower_than_threads_that_divide_units(width: int, threads: int) -> None:
    """The input's gradient has too few columns for each thread to have one."""
    cell = randomise(cells.GRU(width, 20, dtype=torch.float64))
    x = random_input(97, 2, width)
    want = run(cell, x, {}, {}, "eager")
    divide(threads, "units")
    assert_same_run(run(cell, x, {}, {}, "native"), want, times=10)


def test_few_rows_in_a_relay_give_the_bits_of_one_thread() -> None:
    """In outputs no sum is divided, in weight gradients by chunks."""
    cell = randomise(cells.LSTM(64, 64, dtype=torch.float32))
    x = random_input(300, 1, 64, dtype=torch.float32)
    torch.set_num_threads(1)
    alone = run(cell, x, {}, {}, "native")
    divide(2, "relay")
    assert torch.equal(run(cell, x, {}, {}, "native").output, alone.output)


def test_two_relays_side_by_side() -> None:
    """Four threads and eight rows, whose division by size is two teams that each run a relay."""
    cell = randomise(cells.LSTM(64, 64, dtype=torch.float64))
    x = random_input(128, 8, 64)
    want = run(cell, x, {}, {}, "eager")
    divide(4, "")
    assert_same_run(run(cell, x, {}, {}, "native"), want, times=10)


@pytest.mark.parametrize("hidden", [12, 300])
def test_maps_of_each_team_and_of_all(hidden: int) -> None:
    """A map of 300 units, 2.7 MiB, is packed once for all; smaller ones by each team for itself."""
    cell = randomise(cells.LSTM(4, hidden, dtype=torch.float64))
    x = random_input(3, 7, 4)
    want = run(cell, x, {}, {}, "eager")
    divide(3, "rows")
    assert_same_run(run(cell, x, {}, {}, "native"), want, times=10)


@pytest.mark.parametrize(
    ("forward", "backward"),
    [
        ((3, "rows"), (2, "rows")),
        ((2, "rows"), (4, "rows")),
        ((3, "rows"), (1, "rows")),
        ((2, "columns"), (2, "rows")),
        ((3, "rows"), (2, "columns")),
        ((2, "rows"), (3, "relay")),
    ],
)
@pytest.mark.parametrize("mode", [MODES[0], MODES[3], MODES[4], MODES[-2]], ids=str)
@pytest.mark.parametrize("batch", [1, 7])
def test_backward_with_other_threads_than_forward(
    forward: tuple[int, str], backward: tuple[int, str], mode: tuple[Any, ...], batch: int
) -> None:
    """What is kept lies in blocks, one for each of forward's teams: some are empty here, and teams
    of backward's have rows of several.
    """
    cell = randomise(cells.LayerNormLSTM(3, 5, dtype=torch.float64))
    x, state = random_input(9, batch, 3), random_state(cell, batch, dtype=torch.float64)
    layer, call = options(9, batch, mode)
    want = run(cell, x, layer, call, "eager")
    module = Recurrent(cell, engine="native", **layer)

    def through_time(x: torch.Tensor, state: Any) -> Any:
        divide(*forward)
        result = module(x, state, **call)
        divide(*backward)
        return result

    got = run_and_differentiate(through_time, x, state, dict(cell.named_parameters()))
    assert_same_run(got, want, times=10)


@pytest.mark.parametrize(("threads", "what"), [(1, "rows"), (2, "columns"), (2, "")])
@pytest.mark.parametrize("cell_type", [cells.Elman, cells.MinGRU])
def test_vast_maps_that_few_steps_read_agree_with_the_eager_loop(
    cell_type: type[torch.nn.Module], threads: int, what: str
) -> None:
    hidden = 1453  # a map of 8 MiB and more; of 1,453 columns that no panel divides
    cell = randomise(cell_type(hidden, hidden, dtype=torch.float32))
    double = cell_type(hidden, hidden, dtype=torch.float64)
    double.load_state_dict(cell.state_dict())
    with torch.inference_mode():
        # Two rows read it as it lies in up to 8 steps, 80 rows by blocks in up to 4.
        for steps, batch in ((1, 2), (4, 2), (8, 2), (9, 2), (4, 80), (5, 80)):
            x = random_input(steps, batch, hidden, dtype=torch.float32) / hidden**0.5
            divide(threads, what)
            got, state = Recurrent(cell, engine="native")(x)
            want, final = Recurrent(double, engine="eager")(x.double())
            for one, other in zip((got, state), (want, final), strict=True):
                assert_close(one.double(), other, times=2e-6 / 1e-12 * 10)


@pytest.mark.parametrize(("threads", "what"), DIVISIONS)
@pytest.mark.parametrize("cell_type", [cells.LSTM, cells.GRU])
@pytest.mark.parametrize(("steps", "batch"), [(1, 7), (2, 1), (4, 1), (4, 3), (5, 1), (4, 4)])
def test_few_steps_agree_with_the_eager_loop(
    cell_type: type[torch.nn.Module], steps: int, batch: int, threads: int, what: str
) -> None:
    """Up to four steps read the loop's maps as they lie, if these have 5 inputs for each row."""
    cell = randomise(cell_type(73, 65, dtype=torch.float64))  # one more than whole vectors
    x = random_input(steps, batch, 73)
    for mode in MODES:
        layer, call = options(steps, batch, mode)
        want = run(cell, x, layer, call, "eager")
        divide(threads, what)
        assert_same_run(run(cell, x, layer, call, "native"), want, times=10)


def test_training_with_a_vast_map_agrees_with_the_eager_loop() -> None:
    """Two threads divide rows forward and columns backward, by the sizes."""
    hidden = 1024  # a map of 8 MiB
    cell = randomise(cells.Elman(3, hidden, dtype=torch.float64))
    x = random_input(3, 9, 3)
    want = run(cell, x, {}, {}, "eager")
    divide(2, "")
    assert_same_run(run(cell, x, {}, {}, "native"), want, times=10)


@pytest.mark.parametrize(("threads", "what"), DIVISIONS)
def test_a_step_at_a_time_agrees_with_all_at_once(threads: int, what: str) -> None:
    cell = randomise(cells.LSTM(70, 67, dtype=torch.float64))
    layer = Recurrent(cell, engine="native")
    x, state = random_input(5, 3, 70), random_state(cell, 3, dtype=torch.float64)
    with torch.inference_mode():
        divide(threads, what)
        want, final = layer(x, state)
        steps = []
        for t in range(5):
            y, state = layer(x[t : t + 1], state)
            steps.append(y)
    assert_close(torch.cat(steps), want)
    for got, other in zip(state, final, strict=True):
        assert_close(got, other)


def test_an_unknown_division_is_refused() -> None:
    with pytest.raises(ValueError, match="no such division: rings"):
        _native.set_testing(divide="rings")


@pytest.mark.parametrize(("threads", "what"), DIVISIONS)
@pytest.mark.parametrize("batch", [2, 24])
def test_same_bits_from_run_to_run(batch: int, threads: int, what: str) -> None:
    divide(threads, what)
    cell = randomise(cells.LSTM(9, 33, dtype=torch.float32))
    x = random_input(40, batch, 9, dtype=torch.float32)
    runs = [run(cell, x, {}, {}, "native") for _ in range(3)]
    for other in runs[1:]:
        assert torch.equal(runs[0].output, other.output)
        assert torch.equal(runs[0].dx, other.dx)
        for name, gradient in runs[0].dparameters.items():
            assert torch.equal(gradient, other.dparameters[name])


@pytest.mark.parametrize("layout", ["batch_first", "strided", "every_other_feature", "expanded"])
def test_input_of_any_strides(layout: str) -> None:
    cell = randomise(cells.LSTM(6, 10, dtype=torch.float64))
    x = random_input(7, 3, 6)
    if layout == "batch_first":
        view = x.transpose(0, 1).contiguous().transpose(0, 1)
    elif layout == "strided":
        view = random_input(14, 6, 9)[::2, ::2, 1:7]
    elif layout == "every_other_feature":
        view = random_input(7, 3, 12)[..., ::2]
    else:
        view = x[:, :1].expand(7, 3, 6)
    layer = Recurrent(cell, engine="native")
    for call in ({}, {"lengths": torch.tensor([3, 7, 0])}):
        want = Recurrent(cell, engine="eager")(view.contiguous(), **call)
        got = layer(view, **call)
        assert torch.equal(got[0], layer(view.contiguous(), **call)[0])
        assert_close(got[0], want[0])


def test_a_long_chain_of_products_is_exact() -> None:
    """With the identity as activation and weights of powers of two nothing may be rounded."""

    class Sum(torch.nn.Module):
        state_size = 3

        def __init__(self) -> None:
            super().__init__()
            self.W = torch.nn.Parameter(torch.eye(3)[[1, 2, 0]])

        def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
            return h @ self.W + x

    layer = Recurrent(Sum(), engine="native")
    x = torch.randint(-4, 5, (3000, 5, 3), generator=torch.Generator().manual_seed(0)).float()
    y, _ = layer(x)
    want, h = [], torch.zeros(5, 3)
    for row in x:
        h = h[:, [2, 0, 1]] + row
        want.append(h)
    assert torch.equal(y, torch.stack(want))


def test_a_wrong_kernel_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ladder itself is tried: tanh in sigmoid's place must fail it."""
    cell = randomise(cells.GRU(5, 17, dtype=torch.float64))
    x = random_input(7, 3, 5)
    want = run(cell, x, {}, {}, "eager")
    codes = dict(lowering._CODES)
    codes["sigmoid_add"] = codes["tanh_add"]
    monkeypatch.setattr(lowering, "_CODES", codes)
    fresh = cells.GRU(5, 17, dtype=torch.float64)
    fresh.load_state_dict(cell.state_dict())
    fresh.unlike_any_other = 1  # a structure of its own, so that nothing cached is used
    got = run(fresh, x, {}, {}, "native")
    with pytest.raises(AssertionError, match="output"):
        assert_same_run(got, want)
