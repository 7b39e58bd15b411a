"""Language models: the next character or word of a text; what they say by themselves."""

from __future__ import annotations

import math
import tempfile
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn

from ostinato.data import (
    StreamBatches,
    TokenFile,
    Vocabulary,
    characters,
    count_tokens,
    named,
    pieces,
    read_text_stream,
)
from ostinato.data.bad_rows import BadValue
from ostinato.data.values import text_of
from ostinato.errors import DataError, ModelError
from ostinato.tasks.inputs import text_column
from ostinato.tasks.next_symbol import NextSymbol, next_symbol_loss, surprise
from ostinato.tasks.sampling import Sampling, continue_sequence
from ostinato.tasks.sides import by_side
from ostinato.tasks.task import Evaluation, Prepared, Table, Task
from ostinato.tasks.text_parts import WHOLE_DOCUMENTS, split_text
from ostinato.train import Processes, initialise

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterable, Iterator
    from typing import Self

    from ostinato.data import BadRows, Row, TextStream
    from ostinato.tasks.config import TrainConfig

_TOKENIZE: dict[str, Callable[[str], list[str]]] = {"char": characters, "word": pieces}
#: Rows that a prediction waits for.
PREDICTED = 64
#: Tokens that are read in training unless ``epochs`` says how often: Shakespeare's works twice.
_LEARNT, _MOST_EPOCHS = 9_000_000, 50
#: Documents that a table shows one by one.
_SHOWN = 40
#: Marks that no space stands before, or after, where words are put together to a text.
_NO_SPACE_BEFORE = frozenset(".,;:!?)]}%…\n")
_NO_SPACE_AFTER = frozenset("([{\n")


class LanguageModel(Task):
    """Learns what comes next in a text, character by character or word by word.

    The text is cut into ``batch_size`` long streams that are read side by side, ``bptt`` steps at a
    time; the state is carried from one window to the next, the gradient isn't (truncated BPTT). A
    text of any size is read in blocks; its numbers lie in a temporary file (``TMPDIR`` says
    where), of 1, 2 or 4 bytes a token, that is mapped into memory.
    """

    name = "lm"
    summary = "the next character or word of a text"
    defaults: ClassVar[dict[str, Any]] = {
        "level": "char",
        "vocabulary": 4096,
        "cell": "gru",
        "hidden": 256,
        "layers": 1,
        "embedding": 64,
        "dropout": 0.0,
        "bptt": 50,
        "optimizer": "adam",
        "lr": 4e-3,
        "weight_decay": 0.0,
        "schedule": "cosine",
        "warmup": 0.05,
        "batch_size": 32,
        "clip_norm": 1.0,
        "patience": 0,
    }
    #: Where words ask for other choices than characters. The head is tied to the embedding.
    word_defaults: ClassVar[dict[str, Any]] = {
        "vocabulary": 10_000,
        "embedding": 256,
        "dropout": 0.3,
        "lr": 3e-3,
    }

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.vocabulary: Vocabulary | None = None
        self._parts: dict[str, TextStream] | None = None
        self._source = ""
        self._about: list[str] = []
        self._cut = ""
        self._files: dict[str, TokenFile] = {}

    def read(self, bad: BadRows) -> None:
        """See the base class."""
        level = self.config.level or self.defaults["level"]
        self.config = self.config.settle(self.word_defaults if level == "word" else {})
        self.config = self.config.settle(self.defaults)
        parts = self._read_parts(bad)
        size = self.config.vocabulary or None
        counts = count_tokens(parts["train"], self._tokenize)
        if not counts:
            raise DataError(f"{self._source}: there is no text to learn from")
        self.vocabulary = Vocabulary.build(counts, size=size)
        # As many steps for a short text as for a long one, within reason.
        epochs = min(max(round(_LEARNT / counts.total()), 1), _MOST_EPOCHS)
        self.config = self.config.settle({"epochs": epochs})

    def meta(self) -> dict[str, Any]:
        """See the base class."""
        return {"vocabulary": self._known().to_json()}

    @classmethod
    def restore(cls, config: TrainConfig, meta: dict[str, Any]) -> Self:
        """See the base class."""
        task = cls(config)
        if "vocabulary" not in meta:
            raise ModelError("the description of the model has no vocabulary: it is damaged")
        task.vocabulary = Vocabulary.from_json(meta["vocabulary"])
        return task

    def build(self) -> nn.Module:
        """See the base class."""
        config = self.config
        model = NextSymbol(
            len(self._known()),
            embedding=config.embedding,
            cell=config.cell,
            hidden=config.hidden,
            layers=config.layers,
            dropout=config.dropout,
        )
        initialise(model)
        return model

    def prepare(self, model: nn.Module, processes: Processes | None) -> Prepared:
        """See the base class."""
        assert self._parts is not None
        processes = processes or Processes()
        train, held_out = self._encoded("train"), self._encoded("validation")
        batches = StreamBatches(
            train.tokens,
            self.config.batch_size,
            self.config.bptt,
            rank=processes.rank,
            world=processes.world,
        )

        def validate(model: nn.Module) -> dict[str, float]:
            nats, counted = surprise(
                model,
                held_out.tokens,
                _spans(held_out),
                rank=processes.rank,
                world=processes.world,
            )
            total, tokens = processes.total([float(nats.sum()), float(counted.sum())])
            return {f"val_{name}": value for name, value in self._metrics(total, tokens).items()}

        parts = ("train", "validation", "test")
        sizes = ", ".join(f"{len(self._parts[part]):,} {part}" for part in parts)
        unit = "characters" if self.config.level == "char" else "words and marks"
        notes = [
            f"{self._source}: {self._cut or f'{sizes} documents'}",
            *self._about,
            f"{len(train):,} {unit} to learn from, {len(self._known()):,} different ones known",
        ]
        return Prepared(batches, next_symbol_loss, validate, notes=notes)

    def evaluate(self, model: nn.Module, data: list[Path] | None, bad: BadRows) -> Evaluation:
        """See the base class."""
        if data is None:
            if self._parts is None:
                self._read_parts(bad)
            file, source = self._encoded("test"), f"the held-out part of {self._source}"
        else:
            stream = read_text_stream(data, bad, text=self.config.text, format=self.config.format)
            file, source = self._encode(stream), ", ".join(map(str, data))
        spans = _spans(file)
        model.eval()
        with torch.inference_mode():
            nats, counted = surprise(model, file.tokens, spans)
        tokens = int(counted.sum())
        if not tokens:
            raise DataError(f"{source}: too short a text, there is nothing to foretell in it")
        metrics = self._metrics(float(nats.sum()), tokens)
        unit = "characters" if self.config.level == "char" else "words and marks"
        notes = [
            f"{tokens:,} {unit}: {source}",
            f"{file.unknown:,} of them are unknown to the model",
        ]
        if bad.count:
            notes.append(bad.summary())
        tables = []
        if 1 < len(spans) <= _SHOWN:
            name = self._metric
            rows = [
                [document, f"{count:,}", f"{self._metrics(float(nat), int(count))[name]:.3f}"]
                for document, nat, count in zip(file.starts, nats, counted, strict=True)
                if count
            ]
            tables.append(Table("by document", ["document", unit, name.replace("_", " ")], rows))
        return Evaluation(metrics, tables, notes)

    def predict(
        self, model: nn.Module, rows: Iterable[Row], bad: BadRows
    ) -> Iterator[dict[str, Any]]:
        """How well the model foretells each text: ``bits`` a token, ``tokens``, ``unknown`` ones.

        The first token of a text is foretold from nothing and isn't counted.
        """
        remaining = iter(self._encoded_rows(rows, bad))
        while waiting := list(islice(remaining, PREDICTED)):
            ends = np.cumsum([len(tokens) for tokens in waiting]).tolist()
            spans = list(zip([0, *ends[:-1]], ends, strict=True))
            model.eval()
            with torch.inference_mode():
                nats, counted = surprise(model, np.concatenate(waiting), spans, whole=True)
            for tokens, nat, count in zip(waiting, nats, counted, strict=True):
                yield {
                    "bits": float(nat) / int(count) / math.log(2),
                    "tokens": int(count),
                    "unknown": int((tokens == self._known().unknown_index).sum()),
                }

    def generate(
        self, model: nn.Module, prompt: str, length: int, sampling: Sampling, *, seed: int = 0
    ) -> Iterator[str]:
        """Goes on from ``prompt`` for ``length`` characters or words, one piece of text at a time.

        Without a prompt, as after a line end. Unknown symbols of the prompt count as ``<unk>``,
        see :meth:`unknown_in`; the model itself never says ``<unk>``.

        Raises:
            InputError: as :func:`~ostinato.tasks.sampling.continue_sequence`.
        """
        known = self._known()
        tokens = self._tokenize(prompt)
        start = tokens or (["\n"] if "\n" in known else [known.tokens[-1]])
        forbidden = [] if known.unknown_index is None else [known.unknown_index]
        symbols = continue_sequence(
            model, known.encode(start).tolist(), sampling, seed=seed, forbidden=forbidden
        )
        last = tokens[-1] if tokens and not prompt[-1:].isspace() else "\n"
        for number in islice(symbols, length):
            token = known.tokens[number]
            yield token if self.config.level == "char" else _spaced(last, token)
            last = token

    def unknown_in(self, text: str) -> Counter[str]:
        """The characters or words of a text that the model doesn't know, with their counts."""
        return self._known().unknown(self._tokenize(text))

    # ---- inside

    @property
    def _tokenize(self) -> Callable[[str], list[str]]:
        return _TOKENIZE[self.config.level]

    @property
    def _metric(self) -> str:
        return "bits_per_character" if self.config.level == "char" else "perplexity"

    def _metrics(self, nats: float, tokens: float) -> dict[str, float]:
        loss = nats / max(tokens, 1)
        if self.config.level == "char":
            return {"loss": loss, "bits_per_character": loss / math.log(2)}
        # A new model on a large vocabulary must not overflow.
        return {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}

    def _known(self) -> Vocabulary:
        assert self.vocabulary is not None, "neither read() nor restore() was called"
        return self.vocabulary

    def _read_parts(self, bad: BadRows) -> dict[str, TextStream]:
        config = self.config
        if config.data:
            files = by_side([Path(path) for path in config.data])
            given = {
                side: read_text_stream(some, bad, text=config.text, format=config.format)
                for side, some in files.items()
            }
            self._source = ", ".join(config.data)
            missing = [side for side in ("validation", "test") if side not in given]
            if missing and len(given["train"]) < WHOLE_DOCUMENTS:
                self._cut = f"of each text the last tenths are held out for {' and '.join(missing)}"
            self._parts = {**given, **split_text(given["train"], missing)} if missing else given
            return self._parts
        data = named.load(config.dataset or named.default(self.name), self.name)
        self._source = data.name
        self._about = [f"{data.name} is from the {data.source}"]
        assert data.validation is not None
        assert data.test is not None
        self._parts = {"train": data.train, "validation": data.validation, "test": data.test}
        return self._parts

    def _encoded(self, part: str) -> TokenFile:
        if part not in self._files:
            assert self._parts is not None
            self._files[part] = self._encode(self._parts[part])
        return self._files[part]

    def _encode(self, stream: TextStream) -> TokenFile:
        # The file is mapped and then has no name: a run that is killed leaves nothing behind.
        with tempfile.TemporaryDirectory(prefix="ostinato-", ignore_cleanup_errors=True) as folder:
            return TokenFile.encode(stream, self._known(), Path(folder, "tokens"), self._tokenize)

    def _encoded_rows(self, rows: Iterable[Row], bad: BadRows) -> Iterator[np.ndarray[Any, Any]]:
        for row in rows:
            try:
                text = text_of(row, text_column(row.values, self.config.text))
                tokens = self._known().encode(self._tokenize(text))
                if len(tokens) < 2:
                    raise BadValue("a text of one symbol has nothing to foretell")
            except BadValue as error:
                bad.reject(row.where, error.why, error.kind)
                continue
            yield tokens


def _spans(file: TokenFile) -> list[tuple[int, int]]:
    starts = list(file.starts.values())
    return list(zip(starts, [*starts[1:], len(file)], strict=True))


def _spaced(last: str, token: str) -> str:
    """A word with the space that stands before it."""
    tight = token in _NO_SPACE_BEFORE or last in _NO_SPACE_AFTER
    return token if tight else f" {token}"
