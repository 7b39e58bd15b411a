"""What ``fit`` does to a model, and what it tells."""

from __future__ import annotations

import json
import math
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from ostinato.errors import DivergedError, InputError, ModelError
from ostinato.train import (
    Callback,
    EpochRecord,
    History,
    Outcome,
    Part,
    Run,
    StepInfo,
    fit,
)
from ostinato.train.checkpoints import Checkpoints
from ostinato.train.packing import unpack

if TYPE_CHECKING:
    from pathlib import Path
from small_runs import (
    Losses,
    RaggedSums,
    StreamSums,
    arguments,
    build,
    carried_error,
    digest,
    squared_error,
    train,
    validation_of,
)


def plain_loop(epochs: int) -> nn.Module:
    """The same training as ``train("carry")``, as one would write it by hand."""
    model = build("carry")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)
    torch.manual_seed(0)
    for epoch in range(epochs):
        carry = None
        for batch in StreamSums().epoch(epoch):
            outcome = carried_error(model, batch, carry)
            carry = tuple(s.detach() for s in outcome.carry)
            optimizer.zero_grad()
            outcome.loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
    return model


def test_it_is_the_loop_that_one_would_write() -> None:
    model, _ = train("carry", validate=None, clip_norm=0.5)
    for got, want in zip(model.parameters(), plain_loop(3).parameters(), strict=True):
        assert torch.allclose(got, want, atol=1e-6)


def test_it_learns() -> None:
    model, history = train("dropout", objective=squared_error, epochs=15, clip_norm=None)
    assert history.stopped == "finished"
    first, last = history.epochs[0], history.epochs[-1]
    assert last.loss < 0.6 * first.loss
    assert last.metrics["val_loss"] < 0.3 * first.metrics["val_loss"]
    assert not any(e.clipped_share for e in history.epochs)
    assert model.training, "modes are put back"


def test_the_same_seed_gives_the_same_bits_and_another_seed_others() -> None:
    first, second = digest(*train("dropout")), digest(*train("dropout"))
    assert first == second
    assert digest(*train("dropout", seed=1)) != first


def test_modes_are_put_back() -> None:
    model = build("dropout")
    model.eval()
    model.head.train()  # type: ignore[union-attr]
    given = arguments("dropout") | {"validate": validation_of(RaggedSums(1))}
    fit(model, epochs=1, **given)
    assert [m.training for m in (model, model.dropout, model.head)] == [False, False, True]


# ---- what callbacks see


class Everything(Callback):
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.infos: list[StepInfo] = []
        self.records: list[EpochRecord] = []

    def on_start(self, run: Run) -> None:
        self.calls.append("start")
        assert (run.epochs, run.batches, run.steps, run.step) == (3, 6, 18, 0)
        assert run.resumed is None

    def on_step(self, run: Run, info: StepInfo) -> None:
        self.calls.append("step")
        self.infos.append(info)
        assert run.step == info.step

    def on_epoch(self, run: Run, record: EpochRecord) -> None:
        self.calls.append("epoch")
        self.records.append(record)
        assert run.history.epochs[-1] is record

    def on_end(self, run: Run, history: History) -> None:
        self.calls.append("end")


def test_callbacks_see_every_step_and_epoch() -> None:
    seen = Everything()
    _, history = train("dropout", callbacks=[seen], clip_norm=0.9, warmup=0.2, schedule="linear")
    assert seen.calls == ["start", *(["step"] * 6 + ["epoch"]) * 3, "end"]
    assert [i.step for i in seen.infos] == list(range(1, 19))
    assert [(i.epoch, i.batch, i.batches) for i in seen.infos[5:8]] == [
        (1, 6, 6),
        (2, 1, 6),
        (2, 2, 6),
    ]
    batches = [b for n in range(3) for b in RaggedSums().epoch(n)]
    assert [i.terms for i in seen.infos] == [b.all_terms for b in batches]
    assert [i.steps for i in seen.infos] == [b.terms for b in batches]
    for info in seen.infos:
        assert info.clipped == (info.grad_norm > 0.9)
        assert 0 < info.seconds <= info.elapsed
        assert info.part == ""
    rates = [0.01 * k / 4 for k in (1, 2, 3)] + [0.01 * (1 - k / 15) for k in range(15)]
    assert [i.lr for i in seen.infos] == pytest.approx(rates)
    assert seen.records == history.epochs
    first, record = seen.infos[:6], history.epochs[0]
    weighted = sum(i.loss * i.terms for i in first) / sum(i.terms for i in first)
    assert record.loss == pytest.approx(weighted)
    norms = sorted(i.grad_norm for i in first)
    assert record.grad_norm == pytest.approx((norms[2] + norms[3]) / 2)
    assert record.clipped_share == pytest.approx(sum(i.clipped for i in first) / 6)
    assert record.lr == first[-1].lr
    assert record.steps_per_second > 0
    assert record.seconds >= sum(i.seconds for i in first)


@pytest.mark.parametrize("where", ["on_step", "on_epoch"])
def test_a_callback_can_end_the_run(where: str, tmp_path: Path) -> None:
    class End(Callback):
        pass

    def end(self: Callback, run: Run, what: Any) -> None:
        if run.step == 6:
            run.stop()

    setattr(End, where, end)
    seen = Losses()
    _, history = train("carry", tmp_path, callbacks=[End(), seen])
    assert (history.stopped, len(seen.losses)) == ("early", 6)
    _, again = train("carry", tmp_path, callbacks=[seen], resume=True)
    assert (again.stopped, len(seen.losses)) == ("early", 6)


def test_outside_the_main_thread() -> None:
    """Python lets nobody else set handlers of signals."""
    result: list[str] = []
    thread = threading.Thread(target=lambda: result.append(train("carry")[1].stopped))
    thread.start()
    thread.join()
    assert result == ["finished"]


# ---- validation, the best weights, patience


class Scripted:
    """A validation that says what it is told to, and remembers the weights."""

    def __init__(self, *values: float) -> None:
        self.values = list(values)
        self.weights: list[Tensor] = []

    def __call__(self, model: nn.Module) -> dict[str, float]:
        self.weights.append(next(model.parameters()).detach().clone())
        return {"score": self.values[len(self.weights) - 1]}


@pytest.mark.parametrize(
    ("mode", "values", "best"),
    [
        ("min", (3.0, 1.0, 2.0, 1.0), 2),
        ("max", (3.0, math.nan, 4.0, 2.0), 3),
        ("max", (3.0, math.inf, 4.0, 2.0), 3),
        ("min", (math.nan, math.nan, 5.0, 6.0), 3),
    ],
)
def test_the_model_has_the_best_weights(mode: str, values: tuple[float, ...], best: int) -> None:
    script = Scripted(*values)
    model, history = train("carry", epochs=4, validate=script, monitor="score", mode=mode)
    assert history.best_epoch == best
    assert history.best_value == values[best - 1]
    assert history.best_step == 6 * best
    assert torch.equal(next(model.parameters()), script.weights[best - 1])
    assert not torch.equal(script.weights[0], script.weights[1])


def test_patience() -> None:
    script = Scripted(3, 2, 2.5, 1, 4, 4, 4, 4)
    _, history = train("carry", epochs=8, validate=script, monitor="score", patience=1)
    assert history.stopped == "early"
    assert len(history.epochs) == 6  # one epoch is borne (the third), two aren't
    assert history.best_epoch == 4


def test_patience_counts_on_after_a_resume(tmp_path: Path) -> None:
    class At(Callback):
        def on_epoch(self, run: Run, record: EpochRecord) -> None:
            if record.epoch == 3:
                raise KeyboardInterrupt  # no checkpoint of this moment: the last one is older

    values = (3, 2, 2.5, 2.5, 1, 1)
    given: dict[str, Any] = {"epochs": 6, "monitor": "score", "patience": 1}
    with pytest.raises(KeyboardInterrupt):
        train("carry", tmp_path, validate=Scripted(*values), callbacks=[At()], **given)
    rest = Scripted(*values[2:])
    _, history = train("carry", tmp_path, validate=rest, resume=True, **given)
    assert [e.metrics["score"] for e in history.epochs] == [3, 2, 2.5, 2.5]
    assert history.stopped == "early"


def test_a_monitor_that_is_not_there() -> None:
    with pytest.raises(InputError, match="'val_loss' is not among what validate gave: score"):
        train("carry", validate=Scripted(1.0))


# ---- divergence


def poisoned(at: int) -> Any:
    """A loss that becomes NaN at one step."""
    steps = 0

    def objective(model: nn.Module, batch: Any, carry: Any) -> Outcome:
        nonlocal steps
        steps += 1
        outcome = squared_error(model, batch, carry)
        return replace(outcome, loss=outcome.loss * math.nan) if steps == at else outcome

    return objective


def test_a_loss_that_is_nan_ends_the_run_with_the_best_weights(tmp_path: Path) -> None:
    script = Scripted(2.0, 1.0, 3.0)
    model = build("dropout")
    with pytest.raises(DivergedError) as caught:
        fit(
            model,
            RaggedSums(),
            poisoned(20),
            epochs=9,
            validate=script,
            monitor="score",
            directory=tmp_path,
            lr=0.01,
        )
    message = str(caught.value)
    for part in (
        "step 20, epoch 4: loss nan, gradient norm nan",
        "a lower learning rate (it is 0.01)",
        "lower clip_norm",
        "values in the data",
        "best weights so far, those of step 12",
    ):
        assert part in message
    assert torch.equal(next(model.parameters()), script.weights[1])
    kept = unpack((tmp_path / "diverged.safetensors").read_bytes())
    for name, value in model.state_dict().items():
        assert torch.equal(kept[name], value)


def test_a_gradient_that_is_infinite_ends_the_run_before_it_spoils_the_weights() -> None:
    class Steep(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, dy: Tensor) -> Tensor:  # type: ignore[override]
            return dy * math.inf

    def objective(model: nn.Module, batch: Any, carry: Any) -> Outcome:
        outcome = squared_error(model, batch, carry)
        return replace(outcome, loss=Steep.apply(outcome.loss))  # type: ignore[no-untyped-call]

    model = build("dropout")
    before = digest(model, History())
    with pytest.raises(
        DivergedError, match=r"step 1, epoch 1: loss \d.*norm (inf|nan).*clip_norm=1"
    ):
        fit(model, RaggedSums(), objective, epochs=1, clip_norm=None)
    assert digest(model, History()) == before


# ---- several parts


def parts(**weights: float) -> dict[str, Part]:
    return {
        "a": Part(RaggedSums(batches=4), squared_error, weights.get("a", 1.0)),
        "b": Part(StreamSums(batches=2), carried_error, weights.get("b", 1.0)),
    }


class Names(Callback):
    def __init__(self) -> None:
        self.names: list[str] = []

    def on_step(self, run: Run, info: StepInfo) -> None:
        self.names.append(info.part)


@pytest.mark.parametrize(
    ("weights", "want"),
    [({}, "abababababab"), ({"a": 2.0}, "abaabaabaaba"), ({"b": 3.0}, "babbbabbbabb")],
)
def test_parts_are_dealt_by_weight(weights: dict[str, float], want: str) -> None:
    seen = Names()
    fit(build("dropout"), parts(**weights), epochs=2, callbacks=[seen])
    names = "".join(seen.names)
    assert len(names) == 12  # two rounds of four and two batches
    assert names == want
    total = weights.get("a", 1.0) + weights.get("b", 1.0)
    for n in range(1, 13):
        assert abs(names[:n].count("b") - n * weights.get("b", 1.0) / total) < 1


def test_each_part_keeps_its_own_carry_and_place() -> None:
    entered: list[tuple[str, bool, int]] = []

    def watching(name: str, objective: Any) -> Any:
        def watched(model: nn.Module, batch: Any, carry: Any) -> Outcome:
            entered.append((name, carry is not None, int(batch.x.abs().sum() * 1e3)))
            outcome: Outcome = objective(model, batch, carry)
            assert carry is None or not carry.requires_grad
            return outcome

        return watched

    data = {n: Part(p.batches, watching(n, p.objective)) for n, p in parts().items()}
    fit(build("dropout"), data, epochs=1)
    assert [carried for name, carried, _ in entered if name == "a"] == [False] * 3
    # Two windows an epoch: the state is fresh at the third, the first of the next epoch.
    stream = [(carried, x) for name, carried, x in entered if name == "b"]
    assert [carried for carried, _ in stream] == [False, True, False]
    assert stream[0][1] == stream[2][1] != stream[1][1]


# ---- what is refused


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"epochs": 0}, "epochs must be an int >= 1"),
        ({"optimizer": "adagrad"}, "one of adam, adamw, sgd, rmsprop"),
        ({"optimizer": lambda params: 3}, "must give an Optimizer, got int"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"schedule": "step"}, "one of constant, linear, cosine, one-cycle"),
        ({"warmup": 1.0}, "share of the run"),
        ({"clip_norm": 0.0}, "clip_norm must be above 0"),
        ({"mode": "least"}, "'min' or 'max'"),
        ({"patience": 1, "validate": None}, "needs validate"),
        ({"checkpoint_every": -1.0}, "checkpoint_every"),
        ({"objective": None}, "need an objective"),
        ({"data": {}, "objective": None}, "no parts"),
        ({"data": {"a": RaggedSums()}, "objective": None}, "holds Part"),
        ({"data": Part(RaggedSums(), squared_error)}, "leave out fit's"),
        ({"data": Part(RaggedSums(0), squared_error), "objective": None}, "data is empty"),
        ({"data": Part(RaggedSums(), squared_error, 0.0), "objective": None}, "weight"),
        ({"data": [1, 2]}, r"need __len__ and epoch\(number, start\), got a list"),
    ],
)
def test_arguments_that_do_not_fit(wrong: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        train("dropout", **wrong)


def test_batches_that_end_early() -> None:
    class Short(RaggedSums):
        def __len__(self) -> int:
            return 9

    with pytest.raises(InputError, match="ended after 6 batches, len\\(\\) says 9"):
        train("dropout", data=Short())


def test_nothing_to_train() -> None:
    model = build("dropout").requires_grad_(False)
    with pytest.raises(InputError, match="no parameter that requires a gradient"):
        fit(model, RaggedSums(), squared_error, epochs=1)


def test_sparse_gradients_are_refused() -> None:
    model = nn.Embedding(5, 3, sparse=True)

    def objective(model: nn.Module, batch: Any, carry: Any) -> Outcome:
        return Outcome(model(torch.tensor([1, 2])).sum(), 1, 1, 1)

    with pytest.raises(InputError, match=r"gradient of weight is sparse.*sparse=False"):
        fit(model, RaggedSums(), objective, epochs=1)


def test_frozen_parameters_stay() -> None:
    model = build("dropout")
    model.head.requires_grad_(False)  # type: ignore[union-attr]
    before = model.head.weight.clone()  # type: ignore[union-attr, operator]
    fit(model, RaggedSums(), squared_error, epochs=1)
    assert torch.equal(model.head.weight, before)  # type: ignore[union-attr, arg-type]


# ---- history


def test_history_to_json_and_back() -> None:
    _, history = train("dropout")
    text = history.to_json()
    assert History.from_json(text) == history
    assert json.loads(text)["format"] == 1
    odd = History([replace(history.epochs[0], metrics={"f1": math.nan, "ratio": math.inf})])
    back = History.from_json(odd.to_json()).epochs[0].metrics
    assert math.isnan(back["f1"])
    assert math.isnan(back["ratio"])


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "not what History.to_json wrote"),
        ("[]", "expected a JSON object"),
        ('{"format": 99}', "format 99 is newer"),
        ('{"format": 1, "epochs": [{"epoch": 1}]}', "not what History.to_json wrote"),
    ],
)
def test_a_history_that_is_damaged(text: str, match: str) -> None:
    with pytest.raises(ModelError, match=match):
        History.from_json(text)


def test_checkpoints_come_by_the_clock(tmp_path: Path) -> None:
    seen: list[int] = []

    class Count(Callback):
        def on_step(self, run: Run, info: StepInfo) -> None:
            found = Checkpoints(tmp_path).newest()
            seen.append(0 if found is None else found.state()["progress"]["step"])

    train("carry", tmp_path, callbacks=[Count()], checkpoint_every=1e9)
    assert set(seen) == {0}, "none before the end"
    found = Checkpoints(tmp_path).newest()
    assert found is not None
    assert found.state()["progress"]["step"] == 18
    seen.clear()
    train("carry", tmp_path / "often", callbacks=[Count()], checkpoint_every=0.0)
    assert len(seen) == 18
