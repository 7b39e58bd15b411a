"""Forecasting: the past of one or several series to their next values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn

from ostinato.data import named
from ostinato.data.batches import Batch, RaggedBatches
from ostinato.data.series import read_series_table, series_table_of
from ostinato.errors import DataError, InputError, ModelError
from ostinato.tasks.baselines import LinearAutoregression, Sample, choose, seasonal_naive
from ostinato.tasks.encoder import Encoder
from ostinato.tasks.forecast_settings import check_parts, settled
from ostinato.tasks.forecaster import Forecaster, linear_part
from ostinato.tasks.future_times import future_times
from ostinato.tasks.rolling import Run, runs_of
from ostinato.tasks.rolling_errors import (
    LINEAR,
    MODEL,
    NAIVE,
    error_table,
    errors_of,
    metrics_of,
    verdict,
)
from ostinato.tasks.scaling import Scaling
from ostinato.tasks.task import Evaluation, Prepared, Task
from ostinato.tasks.windows import Windows
from ostinato.train import Outcome, Processes, initialise

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Self

    from numpy.typing import NDArray
    from torch import Tensor

    from ostinato.data.bad_rows import BadRows
    from ostinato.data.examples import SeriesTable
    from ostinato.data.rows import Row
    from ostinato.tasks.config import TrainConfig

    Floats = NDArray[np.float64]

#: Windows of a batch where nothing is learnt.
ROWS = 512
#: Windows for each coefficient of the linear part, at least; below that it fits noise.
WINDOWS_PER_WEIGHT = 5


class Forecast(Task):
    """Learns the next ``horizon`` values from the last ``window`` ones.

    Each run of time is cut in three, in order: 65 % to learn from, 15 % for choices, and the last
    20 % held out. Windows are scaled by what the training part says, and none goes over two runs.
    """

    name = "forecast"
    summary = "next values of one or several series"
    defaults: ClassVar[dict[str, Any]] = {
        "horizon": 12,
        "window": 0,
        "season": 0,
        "cell": "gru",
        "hidden": 32,
        "layers": 1,
        "bidirectional": False,
        "embedding": 16,
        "dropout": 0.3,
        "optimizer": "adam",
        "lr": 2e-3,
        "weight_decay": 0.0,
        "schedule": "constant",
        "warmup": 0.0,
        "batch_size": 32,
        "clip_norm": 1.0,
        "patience": 12,
    }

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.names: tuple[str, ...] = ()
        self.linear = False
        self.scaling = Scaling({}, {}, {})
        self.baselines: list[LinearAutoregression] = []
        self._runs: list[Run] = []
        self._source = ""
        self._notes: list[str] = []

    # ---- data

    def read(self, bad: BadRows) -> None:
        """See the base class."""
        if not self.config.data and self.config.dataset is None:
            self.config = self.config.replace(dataset=named.default(self.name))
        suggested: dict[str, Any] = {}
        if self.config.data:
            table = self._read([Path(path) for path in self.config.data], bad)
            self._source = ", ".join(self.config.data)
        else:
            table, suggested = self._read_named()
        self._take(table)
        self.config = config = settled(self.config, {**self.defaults, **suggested}, self._runs)
        self.scaling = Scaling.learn(self._runs, config.season)
        count = len(self._windows("train"))
        self.linear = count >= WINDOWS_PER_WEIGHT * config.window
        self.config = config = config.settle({"epochs": min(max(60_000 // max(count, 1), 5), 120)})
        check_parts(self._source, self._runs, config)
        self.baselines = [
            choose(self._samples(c), config.horizon, config.window, config.season)
            for c in range(len(self.names))
        ]

    def _take(self, table: SeriesTable) -> None:
        """Keep the table's runs that have a value of each series, and note what is odd in them."""
        taken = sorted({"step", "time"}.intersection(table.names))
        if taken:
            raise InputError(
                f"{self._source}: a series can't be called {' or '.join(taken)}, which predictions "
                "have a column of: give it another name"
            )
        self.names = table.names
        self._runs = runs_of(table)
        if not self._runs:
            raise DataError(f"{self._source}: each series needs values, and one has none")
        left_out = len(table.groups) - len(self._runs)
        if left_out:
            runs = "1 run lacks" if left_out == 1 else f"{left_out} runs lack"
            self._notes.append(f"{runs} all values of a series and are left out")
        if any(future_times(run.times, 1) == [None] for run in self._runs):
            self._notes.append("the times keep no one distance: each row is taken for one step")

    def _read(self, paths: list[Path], bad: BadRows) -> SeriesTable:
        config = self.config
        return read_series_table(
            paths,
            config.time,
            list(self.names or config.value) or None,
            bad,
            group=config.group,
            format=config.format,
        )

    def _read_named(self) -> tuple[SeriesTable, dict[str, Any]]:
        assert self.config.dataset is not None
        data = named.load(self.config.dataset, self.name)
        self._source = f"{data.name} ({data.source})"
        table: SeriesTable = data.train
        return _columns(table, self.config.value, data.name), dict(data.options)

    def _windows(self, part: str, runs: list[Run] | None = None) -> Windows:
        window, horizon = self.config.window, self.config.horizon
        return Windows.of(self._runs if runs is None else runs, part, window, horizon)

    def _samples(self, channel: int) -> list[Sample]:
        """One series of all runs, for its linear baseline."""
        samples = []
        parts = zip(self._windows("train").parts, self._windows("validation").parts, strict=True)
        for (run, train), (_, validation) in parts:
            series, targets = (
                self.scaling.scaled(run, values)[:, channel] for values in (run.filled, run.values)
            )
            samples.append(Sample(series, targets, train, validation))
        return samples

    # ---- model

    def meta(self) -> dict[str, Any]:
        """See the base class."""
        return {
            "names": list(self.names),
            "linear": self.linear,
            "scaling": self.scaling.to_json(),
            "baselines": [one.to_json() for one in self.baselines],
        }

    @classmethod
    def restore(cls, config: TrainConfig, meta: dict[str, Any]) -> Self:
        """See the base class."""
        task = cls(config)
        names, baselines = meta.get("names"), meta.get("baselines")
        if not isinstance(names, list) or not isinstance(baselines, list):
            raise ModelError("the model's list of series is damaged")
        if len(names) != len(baselines):
            raise ModelError(f"the model has {len(names)} series, but {len(baselines)} baselines")
        task.names = tuple(str(name) for name in names)
        task.linear = bool(meta.get("linear"))
        task.scaling = Scaling.from_json(meta.get("scaling"), len(names))
        task.baselines = [LinearAutoregression.from_json(one) for one in baselines]
        return task

    def build(self) -> nn.Module:
        """See the base class."""
        config = self.config
        channels = len(self.names)
        encoder = Encoder(
            channels=channels,
            embedding=config.embedding,
            cell=config.cell,
            hidden=config.hidden,
            layers=config.layers,
            bidirectional=config.bidirectional,
            dropout=config.dropout,
        )
        model = Forecaster(encoder, channels, config.window, config.horizon, linear=self.linear)
        initialise(model)
        # Training begins with the linear part alone, or with the window's mean.
        nn.init.zeros_(model.head.weight)
        if model.weight is not None and model.bias is not None and self._runs:
            weight, bias = linear_part(*self._windows("train").arrays(self.scaling))
            with torch.no_grad():
                model.weight.copy_(weight)
                model.bias.copy_(bias)
        return model

    def prepare(self, model: nn.Module, processes: Processes | None) -> Prepared:
        """See the base class."""
        processes = processes or Processes()
        inputs, targets = self._windows("train").arrays(self.scaling)
        batches = RaggedBatches(
            inputs,
            targets,
            self.config.batch_size,
            seed=self.config.seed,
            rank=processes.rank,
            world=processes.world,
        )

        def objective(model: nn.Module, batch: Batch, carry: Any) -> Outcome:
            device = next(model.parameters()).device
            assert batch.target is not None
            share = {"batch_rows": batch.batch_rows, "share": batch.share.to(device)}
            forecast = model(batch.x.to(device), **share)
            # A missing target is a term of 0, so that terms can be counted without looking.
            loss = _squares(forecast, batch.target.to(device)).mean()
            return Outcome(loss, batch.terms, batch.all_terms, batch.steps)

        held_out, wanted = self._windows("validation").arrays(self.scaling)
        mine = range(processes.rank, len(held_out), processes.world)
        known = torch.from_numpy(wanted[mine])

        def validate(model: nn.Module) -> dict[str, float]:
            forecast = self._forward(model, [held_out[i] for i in mine])
            squares = _squares(forecast, known)
            absolute = squares.sqrt()
            sums = [float(squares.sum()), float(absolute.sum()), float((~known.isnan()).sum())]
            squared, error, terms = processes.total(sums)
            return {"val_loss": squared / terms, "val_mae": error / terms}

        windows = f"{len(inputs)} windows of {self.config.window} past values"
        part = "beside a linear part" if self.linear else "without a linear part: too few windows"
        notes = [
            f"{self._source}: {', '.join(self.names)}",
            f"{windows}, {self.config.horizon} steps ahead, a season of {self.config.season}",
            f"the network learns {part}; val_mae is in units of the training part's deviation",
            *self._notes,
        ]
        return Prepared(batches, objective, validate, notes=notes)

    def _forward(self, model: nn.Module, inputs: list[NDArray[np.float32]]) -> Tensor:
        """``(M, horizon, C)`` scaled forecasts, on the CPU."""
        device = next(model.parameters()).device
        model.eval()
        found = [torch.zeros(0, self.config.horizon, len(self.names))]
        with torch.inference_mode():
            for first in range(0, len(inputs), ROWS):
                past = np.stack(inputs[first : first + ROWS], axis=1)
                found.append(model(torch.from_numpy(past).to(device)).cpu())
        return torch.cat(found)

    # ---- use

    def evaluate(self, model: nn.Module, data: list[Path] | None, bad: BadRows) -> Evaluation:
        """Errors from every origin of the held-out end, or of files, beside the two baselines.

        The origin rolls forward a row at a time; the model and the linear autoregression stay as
        they are.
        """
        if data is None:
            if not self._runs:
                again = type(self)(self.config)
                again.read(bad)
                self._runs, self._source = again._runs, again._source
            windows, source = self._windows("test"), f"the held-out end of {self._source}"
        else:
            source = ", ".join(map(str, data))
            windows = self._windows("all", runs_of(self._read(data, bad)))
        if not len(windows):
            raise DataError(
                f"{source}: no run has {self.config.window} past and {self.config.horizon} next "
                f"values; {bad.summary()}"
            )
        forecasts, targets = self._forecasts(model, windows), windows.targets()
        unit = windows.changes(self.scaling)
        errors = [
            errors_of({who: f[..., c] for who, f in forecasts.items()}, targets[..., c], unit[:, c])
            for c in range(len(self.names))
        ]
        used = [(run, origins) for run, origins in windows.parts if len(origins)]
        (first, _), (last, origins) = used[0], used[-1]
        span = f"{first.times[used[0][1][0]]} to {last.times[origins[-1]]}"
        notes = [
            f"{source}: {len(windows)} origins"
            + (f" in {len(used)} runs" if len(used) > 1 else f", {span}"),
            *(verdict(name, one) for name, one in zip(self.names, errors, strict=True)),
            *(
                f"{name}: the linear AR is {one.title}, chosen on the validation part and fitted "
                "to all before the held-out end"
                for name, one in zip(self.names, self.baselines, strict=True)
            ),
        ]
        if bad.count:
            notes.append(bad.summary())
        tables = [
            error_table(f"error of {name} by steps ahead", one)
            for name, one in zip(self.names, errors, strict=True)
        ]
        return Evaluation(metrics_of(self.names, errors), tables, notes)

    def _forecasts(self, model: nn.Module, windows: Windows) -> dict[str, Floats]:
        """Who -> ``(M, horizon, C)`` in the series' units."""
        horizon = self.config.horizon
        scaled = self._forward(model, windows.arrays(self.scaling)[0]).double().numpy()
        edges = np.cumsum([len(origins) for _, origins in windows.parts])[:-1]
        found: dict[str, list[Floats]] = {MODEL: [], NAIVE: [], LINEAR: []}
        for (run, origins), one in zip(windows.parts, np.split(scaled, edges), strict=True):
            found[MODEL].append(self.scaling.restored(run, one))
            found[NAIVE].append(seasonal_naive(run.filled, origins, horizon, self.config.season))
            series = self.scaling.scaled(run, run.filled)
            linear = [b.predict(series[:, c], origins) for c, b in enumerate(self.baselines)]
            found[LINEAR].append(self.scaling.restored(run, np.stack(linear, axis=-1)))
        return {who: np.concatenate(parts) for who, parts in found.items()}

    def predict(
        self, model: nn.Module, rows: Iterable[Row], bad: BadRows
    ) -> Iterator[dict[str, Any]]:
        """The ``horizon`` values after the end of each run: a row for each ``step`` from 1.

        ``time`` goes on in the rhythm of the run's times, or is None. Rows at a run's end that miss
        a value are forecast too: step 1 follows the last row that has all. A run shorter than the
        window is a bad row.
        """
        config = self.config
        table = series_table_of(rows, config.time, self.names, bad, group=config.group)
        whole = {run.name: run for run in runs_of(table)}
        for name, place in table.groups.items():
            run = whole.get(name)
            complete = np.flatnonzero(~np.isnan(table.values[place]).any(1))
            end = int(complete[-1]) + 1 if len(complete) else 0
            if run is None or end < config.window:
                kind = "the run is shorter than the model's window"
                why = f"{kind}: {end} rows up to the last complete one, {config.window} needed"
                bad.reject(table.where[place.start], why, kind)
                continue
            past = self.scaling.scaled(run, run.filled)[end - config.window : end]
            scaled = self._forward(model, [past.astype(np.float32)])[0].double().numpy()
            times = future_times(run.times[:end], config.horizon)
            for step, values in enumerate(self.scaling.restored(run, scaled)):
                group = {} if config.group is None else {config.group: name}
                found = dict(zip(self.names, values.tolist(), strict=True))
                yield {**group, "step": step + 1, "time": times[step], **found}


def _columns(table: SeriesTable, names: tuple[str, ...], source: str) -> SeriesTable:
    """Some of a table's series; all of them where none is named."""
    missing = [name for name in names if name not in table.names]
    if missing:
        known = ", ".join(table.names)
        raise InputError(f"{source} has no series {', '.join(missing)}; there are: {known}")
    if not names:
        return table
    places = [table.names.index(name) for name in names]
    return replace(table, names=names, values=table.values[:, places])


def _squares(forecast: Tensor, target: Tensor) -> Tensor:
    """Squared errors, 0 where the target is missing."""
    return torch.where(target.isnan(), 0.0, forecast - target.nan_to_num()).square()
