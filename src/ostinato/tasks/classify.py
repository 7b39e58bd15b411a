"""Classification: a text or a numeric series to one label."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ostinato.data import named
from ostinato.data.bad_rows import BadValue
from ostinato.data.batches import Batch, RaggedBatches
from ostinato.data.columns import guess_columns, guess_label, guess_text
from ostinato.data.examples import SeriesExamples, TextExamples
from ostinato.data.reading import read_text_examples
from ostinato.data.rows import read_rows
from ostinato.data.series import columns_left_out, read_series_examples, steps_of
from ostinato.errors import DataError, InputError, ModelError
from ostinato.tasks.classifier import Classifier
from ostinato.tasks.encoder import Encoder
from ostinato.tasks.inputs import SeriesInput, TextInput, input_from_json
from ostinato.tasks.metrics import label_metrics, label_tables
from ostinato.tasks.sides import Sides, read_sides
from ostinato.tasks.task import Evaluation, Prepared, Task
from ostinato.train import Outcome, Processes, initialise

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from typing import Self

    from numpy.typing import NDArray

    from ostinato.data.bad_rows import BadRows
    from ostinato.data.rows import Row
    from ostinato.tasks.config import TrainConfig

    Examples = TextExamples | SeriesExamples
    Encoded = tuple[list[NDArray[Any]], NDArray[np.int64]]

#: Rows of a batch where nothing is learnt.
ROWS = 256
#: Rows that a prediction waits for.
PREDICTED = 64
#: Why an example without steps can't be used.
EMPTY = "there is no step in it: no word or number"
_TEXT_ONLY = ("level", "vocabulary", "max_length")
#: Standard deviation of a new embedding. Larger ones (PyTorch's is 1) drown what is learnt of
#: words that are seen a few times.
EMBEDDING_STD = 0.1


class Classify(Task):
    """Learns the label of a text or of a numeric series.

    Files are texts if they have a column of texts (or ``text`` names it), else series; ``value``,
    ``group`` or ``time`` say that they are series.
    """

    name = "classify"
    summary = "text or numeric series -> label"
    defaults: ClassVar[dict[str, Any]] = {
        "level": "word",
        "vocabulary": 20_000,
        "max_length": 400,
        "cell": "gru",
        "hidden": 64,
        "layers": 1,
        "bidirectional": False,
        "embedding": 64,
        "dropout": 0.5,
        "pool": "mean+max",
        "optimizer": "adam",
        "lr": 3e-3,
        "weight_decay": 0.0,
        "schedule": "one-cycle",
        "warmup": 0.0,
        "batch_size": 32,
        "clip_norm": 1.0,
        "patience": 0,
    }
    #: Where series ask for other choices than texts.
    series_defaults: ClassVar[dict[str, Any]] = {
        "bidirectional": True,
        "dropout": 0.3,
        "batch_size": 16,
    }

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.labels: list[str] = []
        self.input: TextInput | SeriesInput | None = None
        self._left_out: tuple[str, ...] = ()
        self._sides: Sides[Any] | None = None
        self._train: Encoded | None = None
        self._validation: Encoded | None = None

    def read(self, bad: BadRows) -> None:
        """See the base class."""
        if not self.config.data and self.config.dataset is None:
            self.config = self.config.replace(dataset=named.default(self.name))
        if self.config.data:
            self.config = self._with_columns(bad)
        sides = self._sides = read_sides(self.config, lambda paths: self._read(paths, bad))
        train = sides.train
        self.labels = sorted(sides.labels(lambda side: side.labels), key=_natural)
        if len(self.labels) < 2:
            raise InputError(
                f"{sides.source}: all examples have the label {self.labels[0]!r}; two or more "
                "different ones are needed to learn to tell them apart"
            )
        series = isinstance(train, SeriesExamples)
        total = 60 * 270 if series else 60_000
        chosen = {**self.defaults, **(self.series_defaults if series else {})}
        if series:
            chosen = {k: v for k, v in chosen.items() if k not in _TEXT_ONLY}
        # As many steps for few examples as for many, within reason.
        chosen["epochs"] = min(max(round(total / len(train)), 3), 60)
        self.config = self.config.settle(chosen)
        if isinstance(train, SeriesExamples):
            self.input = SeriesInput.learn(train.series, train.channels, self._left_out)
            self._train = self._encode(train, bad)
        else:
            self.input, encoded = TextInput.learn(train.texts, self.config)
            self._train = self._usable(encoded, train, bad)
        self._validation = self._encode(sides.validation, bad)
        if not self._train[0] or not self._validation[0]:
            raise DataError(f"{sides.source}: no example can be used; {bad.summary()}")

    def meta(self) -> dict[str, Any]:
        """See the base class."""
        assert self.input is not None
        return {"labels": self.labels, "input": self.input.to_json()}

    @classmethod
    def restore(cls, config: TrainConfig, meta: dict[str, Any]) -> Self:
        """See the base class."""
        task = cls(config)
        labels = meta.get("labels")
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise ModelError("the model's list of labels is damaged")
        task.labels = labels
        task.input = input_from_json(meta.get("input"))
        return task

    def build(self) -> nn.Module:
        """See the base class."""
        assert self.input is not None
        config = self.config
        encoder = Encoder(
            symbols=self.input.symbols,
            channels=self.input.channels,
            embedding=config.embedding,
            cell=config.cell,
            hidden=config.hidden,
            layers=config.layers,
            bidirectional=config.bidirectional,
            dropout=config.dropout,
        )
        model = Classifier(encoder, len(self.labels), config.pool, config.dropout)
        initialise(model)
        if isinstance(encoder.embed, nn.Embedding):
            nn.init.normal_(encoder.embed.weight, std=EMBEDDING_STD)
        return model

    def prepare(self, model: nn.Module, processes: Processes | None) -> Prepared:
        """See the base class."""
        assert self._sides is not None
        assert self._train is not None
        assert self._validation is not None
        processes = processes or Processes()
        inputs, targets = self._train
        batches = RaggedBatches(
            inputs,
            targets,
            self.config.batch_size,
            seed=self.config.seed,
            rank=processes.rank,
            world=processes.world,
        )
        # Each process looks at its share.
        share = slice(processes.rank, None, processes.world)
        held_out = self._validation[0][share]
        target = torch.from_numpy(self._validation[1][share])

        def validate(model: nn.Module) -> dict[str, float]:
            loss, right = 0.0, 0.0
            if held_out:  # of few examples, many processes don't all have one
                logits = _logits(model, held_out)
                loss = F.cross_entropy(logits, target, reduction="sum").item()
                right = (logits.argmax(-1) == target).sum().item()
            loss, right, count = processes.total([loss, right, len(target)])
            return {"val_loss": loss / count, "val_accuracy": right / count}

        return Prepared(batches, objective, validate, notes=list(self._sides.notes))

    def evaluate(self, model: nn.Module, data: list[Path] | None, bad: BadRows) -> Evaluation:
        """See the base class."""
        assert self.input is not None
        if data is None:
            sides = self._sides or read_sides(self.config, lambda paths: self._read(paths, bad))
            examples, source = sides.test, f"the held-out part of {sides.source}"
        else:
            examples, source = self._read(data, bad), ", ".join(map(str, data))
        inputs, target = self._encode(examples, bad)
        if not inputs:
            raise DataError(f"{source}: no example can be used; {bad.summary()}")
        logits = _logits(model, inputs)
        predicted = logits.argmax(-1).numpy()
        notes = [f"{len(inputs):,} examples: {source}"]
        if isinstance(self.input, TextInput):
            tokens = sum(map(len, inputs))
            unknown = sum(map(self.input.unknown, inputs))
            things = "words" if self.input.level == "word" else "characters"
            notes.append(f"{unknown / tokens:.1%} of their {tokens:,} {things} are unknown")
        if bad.count:
            notes.append(bad.summary())
        loss = F.cross_entropy(logits, torch.from_numpy(target)).item()
        most = float(np.bincount(target).max() / len(target))
        metrics = {**label_metrics(target, predicted), "loss": loss, "majority_accuracy": most}
        return Evaluation(metrics, label_tables(target, predicted, self.labels), notes)

    def predict(
        self, model: nn.Module, rows: Iterable[Row], bad: BadRows
    ) -> Iterator[dict[str, Any]]:
        """Yields ``label``, its ``probability``, and, of a text, ``unknown`` steps.

        Of series in long form (``group``) a prediction is for all neighbouring rows of one group,
        which it names.
        """
        waiting: list[tuple[dict[str, Any], NDArray[Any]]] = []
        for about, encoded in self._encoded_rows(rows, bad):
            waiting.append((about, encoded))
            if len(waiting) == PREDICTED:
                yield from self._predicted(model, waiting)
                waiting = []
        yield from self._predicted(model, waiting)

    def _predicted(
        self, model: nn.Module, waiting: list[tuple[dict[str, Any], NDArray[Any]]]
    ) -> Iterator[dict[str, Any]]:
        if not waiting:
            return
        logits = _logits(model, [encoded for _, encoded in waiting])
        for (about, encoded), probability in zip(waiting, logits.softmax(-1), strict=True):
            best = int(probability.argmax())
            found = {"label": self.labels[best], "probability": float(probability[best])}
            if isinstance(self.input, TextInput):
                found["unknown"] = self.input.unknown(encoded)
            yield {**about, **found}

    def _encoded_rows(
        self, rows: Iterable[Row], bad: BadRows
    ) -> Iterator[tuple[dict[str, Any], NDArray[Any]]]:
        if isinstance(self.input, SeriesInput) and self.config.group is not None:
            yield from self._encoded_groups(rows, self.input, self.config.group, bad)
            return
        assert self.input is not None
        for row in rows:
            try:
                encoded = self.input.row(row, self.config)
                if not len(encoded):
                    raise BadValue(EMPTY)
            except BadValue as error:
                bad.reject(row.where, error.why, error.kind)
                continue
            yield {}, encoded

    def _encoded_groups(
        self, rows: Iterable[Row], series: SeriesInput, column: str, bad: BadRows
    ) -> Iterator[tuple[dict[str, Any], NDArray[Any]]]:
        for name, group in groupby(rows, lambda row: row.values.get(column)):
            steps = steps_of(list(group), self.config.time, series.names, bad)
            if len(steps):
                yield {column: name}, series.encode(steps)

    def _with_columns(self, bad: BadRows) -> TrainConfig:
        """The configuration with the columns' names where files have them to be found."""
        config = self.config
        rows = read_rows(config.data[0], bad, format=config.format)
        label = guess_label(rows, config.label)
        if config.text is None:
            if config.value or config.group or config.time:
                return config.replace(label=label)
            try:
                guess_text(rows, None, taken=config.label)
            except DataError:
                self._left_out = columns_left_out(rows, label)
                return config.replace(label=label)
        text, label = guess_columns(rows, config.text, config.label)
        return config.replace(text=text, label=label)

    def _read(self, paths: list[Path], bad: BadRows) -> Examples:
        config = self.config
        if config.text is not None or isinstance(self.input, TextInput):
            return read_text_examples(paths, config.text, config.label, bad, format=config.format)
        return read_series_examples(
            paths,
            config.label,
            bad,
            group=config.group,
            time=config.time,
            value=config.value or None,
            format=config.format,
        )

    def _encode(self, examples: Examples, bad: BadRows) -> Encoded:
        assert self.input is not None
        if isinstance(self.input, TextInput) and isinstance(examples, TextExamples):
            encoded: list[NDArray[Any]] = [self.input.encode(text) for text in examples.texts]
        elif isinstance(self.input, SeriesInput) and isinstance(examples, SeriesExamples):
            encoded = [self.input.encode(series) for series in examples.series]
        else:
            raise InputError(f"the model reads {self.input.kind}, got {type(examples).__name__}")
        return self._usable(encoded, examples, bad)

    def _usable(self, encoded: list[NDArray[Any]], examples: Examples, bad: BadRows) -> Encoded:
        """The examples that have a step and a label that is known, and their labels' numbers."""
        number = {label: i for i, label in enumerate(self.labels)}
        kept, targets = [], []
        for one, label, where in zip(encoded, examples.labels, examples.where, strict=True):
            if not len(one):
                bad.reject(where, EMPTY)
            elif label not in number:
                kind = "a label that the model doesn't know"
                bad.reject(where, f"{kind}: {label!r}", kind)
            else:
                kept.append(one)
                targets.append(number[label])
        return kept, np.array(targets, dtype=np.int64)


def objective(model: nn.Module, batch: Batch, carry: Any) -> Outcome:
    """Cross-entropy of the labels."""
    batch = batch.to(next(model.parameters()).device)
    logits = model(batch.x, batch.lengths, batch_rows=batch.batch_rows, share=batch.share)
    assert batch.target is not None
    loss = F.cross_entropy(logits, batch.target)
    return Outcome(loss, batch.terms, batch.all_terms, batch.steps)


def _logits(model: nn.Module, inputs: list[NDArray[Any]]) -> Tensor:
    """The model's output of each of N >= 1 sequences, ``(N, labels)``, on the CPU."""
    model.eval()
    device = next(model.parameters()).device
    found: Tensor | None = None
    with torch.inference_mode():
        for batch in RaggedBatches(inputs, None, ROWS, shuffle=False).epoch(0):
            logits = model(batch.x.to(device), batch.lengths.to(device)).cpu()
            if found is None:
                found = logits.new_empty(len(inputs), logits.shape[1])
            found[batch.rows] = logits
    assert found is not None
    return found


def _natural(label: str) -> tuple[float, str]:
    """Sorts labels that are numbers as numbers."""
    try:
        return float(label), label
    except ValueError:
        return float("inf"), label
