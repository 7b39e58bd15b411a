"""Tagging: a label for every step of a sentence."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ostinato.data import named
from ostinato.data.bad_rows import BadValue
from ostinato.data.batches import NO_TARGET, Batch, RaggedBatches
from ostinato.data.conll import read_tagged
from ostinato.data.vocabulary import Vocabulary
from ostinato.errors import DataError, InputError, ModelError
from ostinato.tasks.metrics import label_metrics, label_tables
from ostinato.tasks.sides import Sides, read_sides
from ostinato.tasks.tagger import Spelling, Tagger
from ostinato.tasks.task import Evaluation, Prepared, Table, Task
from ostinato.train import Outcome, Processes, initialise

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path
    from typing import Self

    from numpy.typing import NDArray

    from ostinato.data.bad_rows import BadRows
    from ostinato.data.examples import TaggedExamples
    from ostinato.data.rows import Row
    from ostinato.tasks.config import TrainConfig

#: Rows of a batch where nothing is learnt.
ROWS = 256
#: Training sentences of all epochs together, where few epochs or many aren't unreasonable.
SENTENCES = 67_000
#: Sentences that a prediction waits for.
PREDICTED = 64
#: Standard deviation of new embeddings, see :mod:`ostinato.tasks.classify`.
EMBEDDING_STD = 0.1
#: Columns of a row that may hold its tokens.
COLUMNS = ("tokens", "words", "text", "sentence")


class Tag(Task):
    """Learns the tag of each word of a sentence.

    Words that come once in the training data count as unknown, so that the model learns what to
    make of an unknown word from its spelling and its neighbours.
    """

    name = "tag"
    summary = "a label per step"
    defaults: ClassVar[dict[str, Any]] = {
        "level": "word",
        "vocabulary": 20_000,
        "cell": "gru",
        "hidden": 64,
        "layers": 1,
        "bidirectional": True,
        "embedding": 64,
        "dropout": 0.5,
        "optimizer": "adam",
        "lr": 5e-3,
        "weight_decay": 0.0,
        "schedule": "one-cycle",
        "warmup": 0.0,
        "batch_size": 32,
        "clip_norm": 1.0,
        "patience": 0,
    }

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.tags: list[str] = []
        self.words: Vocabulary | None = None
        self.characters: Vocabulary | None = None
        #: Word -> number of its most frequent tag in the training data.
        self.usual: dict[str, int] = {}
        self._sides: Sides[TaggedExamples] | None = None

    def read(self, bad: BadRows) -> None:
        """See the base class."""
        if not self.config.data and self.config.dataset is None:
            self.config = self.config.replace(dataset=named.default(self.name))
        sides = read_sides(self.config, lambda paths: self._read(paths, bad))
        train = sides.train
        chosen = {**self.defaults, "epochs": min(max(round(SENTENCES / len(train)), 3), 40)}
        self.config = self.config.settle(chosen)
        if self.config.level != "word":
            raise InputError("tag: a step is a token of the data; leave out level")
        tags = Counter(tag for some in train.tags for tag in some)
        known = sides.labels(lambda side: {tag for some in side.tags for tag in some})
        self.tags = sorted(known, key=lambda tag: (-tags[tag], tag))
        counts = Counter(word for some in train.tokens for word in some)
        often = Counter({word: count for word, count in counts.items() if count > 1})
        self.words = Vocabulary.build(often or counts, self.config.vocabulary or None)
        self.characters = Vocabulary.build(
            Counter(c for word, count in counts.items() for c in word * count), padding=True
        )
        self.usual = _usual(train, self.tags)
        self._sides = sides

    def meta(self) -> dict[str, Any]:
        """See the base class."""
        assert self.words is not None
        assert self.characters is not None
        return {
            "tags": self.tags,
            "words": self.words.to_json(),
            "characters": self.characters.to_json(),
            "usual": self.usual,
        }

    @classmethod
    def restore(cls, config: TrainConfig, meta: dict[str, Any]) -> Self:
        """See the base class."""
        task = cls(config)
        try:
            task.tags = [str(tag) for tag in meta["tags"]]
            task.usual = {str(word): int(tag) for word, tag in meta["usual"].items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelError(f"the model's list of tags is damaged: {error!r}") from error
        task.words = Vocabulary.from_json(meta.get("words"))
        task.characters = Vocabulary.from_json(meta.get("characters"))
        return task

    def build(self) -> nn.Module:
        """See the base class."""
        assert self.words is not None
        assert self.characters is not None
        config = self.config
        model = Tagger(
            words=len(self.words),
            characters=len(self.characters),
            embedding=config.embedding,
            tags=len(self.tags),
            cell=config.cell,
            hidden=config.hidden,
            layers=config.layers,
            bidirectional=config.bidirectional,
            dropout=config.dropout,
        )
        initialise(model)
        nn.init.normal_(model.words.weight, std=EMBEDDING_STD)
        nn.init.normal_(model.characters.weight, std=EMBEDDING_STD)
        return model

    def prepare(self, model: nn.Module, processes: Processes | None) -> Prepared:
        """See the base class."""
        assert self._sides is not None
        processes = processes or Processes()
        train, validation = self._sides.train, self._sides.validation
        assert self.characters is not None
        spelling = Spelling(train.tokens, self.characters)
        batches = RaggedBatches(
            self._encode(train.tokens),
            self._targets(train),
            self.config.batch_size,
            seed=self.config.seed,
            rank=processes.rank,
            world=processes.world,
        )

        def objective(model: nn.Module, batch: Batch, carry: Any) -> Outcome:
            logits = _of_batch(model, batch, spelling, train=True)
            assert batch.target is not None
            target = batch.target.to(logits.device)
            # A batch's share may have no term; its mean is NaN, which the loop expects.
            loss = F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=NO_TARGET)
            return Outcome(loss, batch.terms, batch.all_terms, batch.steps)

        share = np.arange(len(validation))[processes.rank :: processes.world]
        held_out = validation.subset(share)

        def validate(model: nn.Module) -> dict[str, float]:
            loss, right, count = 0.0, 0, 0
            for logits, target in self._outputs(model, held_out):
                loss += F.cross_entropy(logits, target, reduction="sum").item()
                right += int((logits.argmax(-1) == target).sum())
                count += len(target)
            all_loss, all_right, terms = processes.total([loss, right, count])
            return {"val_loss": all_loss / terms, "val_accuracy": all_right / terms}

        return Prepared(batches, objective, validate, notes=list(self._sides.notes))

    def evaluate(self, model: nn.Module, data: list[Path] | None, bad: BadRows) -> Evaluation:
        """Metrics per word, beside those of taking each word's most frequent tag.

        ``baseline_accuracy`` is that of the latter, which takes the most frequent tag of all for a
        word that training didn't have; ``error_reduction`` is the share of its errors that the
        model doesn't make.
        """
        if data is None:
            sides = self._sides or read_sides(self.config, lambda paths: self._read(paths, bad))
            examples, source = sides.test, f"the held-out part of {sides.source}"
        else:
            examples, source = self._read(data, bad), ", ".join(map(str, data))
        examples = self._usable(examples, bad)
        if not len(examples):
            raise DataError(f"{source}: no sentence can be used; {bad.summary()}")
        parts = list(self._outputs(model, examples))
        true = torch.cat([target for _, target in parts]).numpy()
        logits = torch.cat([some for some, _ in parts])
        predicted = logits.argmax(-1).numpy()
        metrics = {**label_metrics(true, predicted)}
        metrics["loss"] = F.cross_entropy(logits, torch.from_numpy(true)).item()

        # The baseline goes through the sentences in their own order.
        words = [word for some in examples.tokens for word in some]
        flat = np.concatenate(self._targets(examples))
        usual = np.array([self.usual.get(word, 0) for word in words])
        baseline = float((usual == flat).mean())
        metrics["baseline_accuracy"] = baseline
        if baseline < 1.0:
            metrics["error_reduction"] = 1.0 - (1.0 - metrics["accuracy"]) / (1.0 - baseline)
        seen = np.array([word in self.usual for word in words])
        table = Table(
            "errors",
            ["", "words", "most frequent tag of the word", "model"],
            [["all", str(len(flat)), f"{1 - baseline:.2%}", f"{1 - metrics['accuracy']:.2%}"]],
        )
        notes = [
            f"{len(examples):,} sentences: {source}",
            f"{1 - seen.mean():.1%} of their {len(words):,} words aren't in the training data",
        ]
        if bad.count:
            notes.append(bad.summary())
        return Evaluation(metrics, [table, *label_tables(true, predicted, self.tags)], notes)

    def predict(
        self, model: nn.Module, rows: Iterable[Row], bad: BadRows
    ) -> Iterator[dict[str, Any]]:
        """Yields ``tokens``, their ``tags``, and how many tokens are ``unknown``.

        A row has its tokens as a list, or as a text in which spaces part them, in the column
        ``tokens``, ``words``, ``text`` or ``sentence``, or in its only one.
        """
        waiting: list[list[str]] = []
        for row in rows:
            try:
                waiting.append(_tokens(row))
            except BadValue as error:
                bad.reject(row.where, error.why, error.kind)
                continue
            if len(waiting) == PREDICTED:
                yield from self._predicted(model, waiting)
                waiting = []
        yield from self._predicted(model, waiting)

    def _predicted(self, model: nn.Module, sentences: list[list[str]]) -> Iterator[dict[str, Any]]:
        if not sentences:
            return
        found: list[list[str]] = [[] for _ in sentences]
        for batch, logits in self._batches(model, sentences):
            best = logits.argmax(-1)
            for b, (row, length) in enumerate(
                zip(batch.rows.tolist(), batch.lengths.tolist(), strict=True)
            ):
                found[row] = [self.tags[tag] for tag in best[:length, b].tolist()]
        for tokens, tags in zip(sentences, found, strict=True):
            unknown = sum(token not in self.usual for token in tokens)
            yield {"tokens": tokens, "tags": tags, "unknown": unknown}

    def _batches(
        self, model: nn.Module, sentences: Sequence[list[str]], targets: Any = None
    ) -> Iterator[tuple[Batch, Tensor]]:
        """Batches of sentences and the model's output for them, on the CPU."""
        assert self.characters is not None
        spelling = Spelling(sentences, self.characters)
        data = RaggedBatches(self._encode(sentences), targets, ROWS, shuffle=False)
        model.eval()
        with torch.inference_mode():
            for batch in data.epoch(0):
                yield batch, _of_batch(model, batch, spelling, train=False).cpu()

    def _outputs(
        self, model: nn.Module, examples: TaggedExamples
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The model's outputs ``(n, tags)`` and the targets ``(n,)`` of all words, by batches."""
        if not len(examples):
            return
        for batch, logits in self._batches(model, examples.tokens, self._targets(examples)):
            assert batch.target is not None
            valid = batch.target != NO_TARGET
            yield logits[valid], batch.target[valid]

    def _read(self, paths: list[Path], bad: BadRows) -> TaggedExamples:
        return read_tagged(paths, bad, format=self.config.format)

    def _encode(self, sentences: Sequence[list[str]]) -> list[NDArray[np.int64]]:
        assert self.words is not None
        return [self.words.encode(tokens) for tokens in sentences]

    def _targets(self, examples: TaggedExamples) -> list[NDArray[np.int64]]:
        number = {tag: i for i, tag in enumerate(self.tags)}
        return [np.array([number[tag] for tag in tags], dtype=np.int64) for tags in examples.tags]

    def _usable(self, examples: TaggedExamples, bad: BadRows) -> TaggedExamples:
        """The sentences whose tags are all known."""
        known, kept = set(self.tags), []
        for i, (tags, where) in enumerate(zip(examples.tags, examples.where, strict=True)):
            new = sorted(set(tags) - known)
            if new:
                kind = "a tag that the model doesn't know"
                bad.reject(where, f"{kind}: {', '.join(new)}", kind)
            else:
                kept.append(i)
        return examples.subset(kept)


def _of_batch(model: nn.Module, batch: Batch, spelling: Spelling, *, train: bool) -> Tensor:
    device = next(model.parameters()).device
    spelt = spelling.of(batch.rows, len(batch.x)).to(device)
    share = {"batch_rows": batch.batch_rows, "share": batch.share.to(device)} if train else {}
    logits: Tensor = model(batch.x.to(device), spelt, batch.lengths.to(device), **share)
    return logits


def _usual(examples: TaggedExamples, tags: Sequence[str]) -> dict[str, int]:
    """The number of each word's most frequent tag."""
    number = {tag: i for i, tag in enumerate(tags)}
    counts: dict[str, Counter[int]] = {}
    for words, some in zip(examples.tokens, examples.tags, strict=True):
        for word, tag in zip(words, some, strict=True):
            counts.setdefault(word, Counter())[number[tag]] += 1
    # Of equally frequent tags, the one that is more frequent in all.
    return {word: min(c, key=lambda tag: (-c[tag], tag)) for word, c in counts.items()}


def _tokens(row: Row) -> list[str]:
    values = row.values
    column = next((c for c in COLUMNS if c in values), None)
    if column is None and len(values) == 1:
        column = next(iter(values))
    if column is None:
        raise InputError(
            f"expected a column {', '.join(COLUMNS)} with a sentence's tokens, got the columns "
            f"{', '.join(map(repr, values)) or 'none'}"
        )
    value = values[column]
    tokens = value.split() if isinstance(value, str) else value
    if not isinstance(tokens, list) or not tokens or not all(isinstance(t, str) for t in tokens):
        kind = f"{column!r} has no tokens"
        raise BadValue(f"{kind}: {str(value)[:40]!r}", kind)
    return tokens
