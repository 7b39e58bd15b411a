"""What a training run is told: one flat record, which the command line, a file or Python fills."""

from __future__ import annotations

import dataclasses
import difflib
import json
import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ostinato.errors import InputError
from ostinato.tasks.option import (
    TASK_NAMES,
    at_least,
    bare,
    check_value,
    not_negative,
    option,
    part,
    positive,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_EXAMPLES = ("classify", "tag", "forecast")  # many short sequences, not one long stream
_ROWS = ("classify", "forecast")
_SYMBOLS = ("classify", "tag", "lm")  # inputs are words or characters


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """All choices of a training run, by the names of the command line's options.

    A field that is ``None`` stands at its default; :meth:`settle` fills in those that depend on the
    task, so that a saved configuration names every value. 0 switches a limit off (``max_length``,
    ``vocabulary``, ``clip_norm``, ``patience``). Each field's metadata has its ``help``, ``group``,
    ``choices``, and the ``tasks`` that it applies to.

    Raises:
        InputError: an unknown task or choice, a value of another type or out of range, or an
            option given that the task doesn't know.

    >>> TrainConfig(task="classify", hidden=32).hidden
    32
    """

    task: str = option("what to learn", group="data", choices=TASK_NAMES, default="classify")

    # Data
    data: tuple[str, ...] = option("files; none: the named data set", group="data", default=())
    dataset: str | None = option("a data set by name", group="data", metavar="NAME")
    format: str | None = option(
        "the files' format; by default told by their names",
        group="data",
        choices=("csv", "tsv", "tsv-raw", "jsonl", "parquet", "text", "conll"),
    )
    text: str | None = option(
        "the column with the text", group="data", tasks=("classify", "lm"), metavar="COLUMN"
    )
    label: str | None = option(
        "the column with the label", group="data", tasks=("classify",), metavar="COLUMN"
    )
    time: str | None = option(
        "the column with the time", group="data", tasks=_ROWS, metavar="COLUMN"
    )
    value: tuple[str, ...] = option(
        "a column with numbers; may be given several times",
        group="data",
        tasks=_ROWS,
        default=(),
        metavar="COLUMN",
    )
    group: str | None = option(
        "the column that says which series a row belongs to",
        group="data",
        tasks=_ROWS,
        metavar="COLUMN",
    )
    bad_rows: str = option(
        "stop at a row that can't be used, or count it and go on",
        group="data",
        choices=("fail", "skip"),
        default="fail",
    )
    level: str = option(
        "what a step is", group="data", choices=("word", "char"), tasks=_SYMBOLS, settled=True
    )
    vocabulary: int = option(
        "the most frequent words or characters to know; 0: all",
        group="data",
        tasks=_SYMBOLS,
        check=at_least(0),
        settled=True,
        metavar="N",
    )
    max_length: int = option(
        "steps of a sequence that are kept; of a longer text its beginning and end; 0: all",
        group="data",
        tasks=("classify",),
        check=at_least(0),
        settled=True,
        metavar="STEPS",
    )

    # Model
    cell: str = option(
        "a registered cell (`ostinato cells` lists them), or your own as module:Class",
        group="model",
        settled=True,
        metavar="NAME|MODULE:CLASS",
    )
    hidden: int = option(
        "units of a recurrent layer", group="model", check=at_least(1), settled=True, metavar="H"
    )
    layers: int = option(
        "recurrent layers", group="model", check=at_least(1), settled=True, metavar="L"
    )
    bidirectional: bool = option(
        "read each sequence in both directions", group="model", tasks=_EXAMPLES, settled=True
    )
    embedding: int = option(
        "width of a word's, a character's or a step's vector before the recurrent layers",
        group="model",
        check=at_least(1),
        settled=True,
        metavar="N",
    )
    dropout: float = option(
        "share of features dropped between layers, the same ones at all steps of a row",
        group="model",
        check=part,
        settled=True,
        metavar="P",
    )
    pool: str = option(
        "how a sequence's outputs become one vector",
        group="model",
        choices=("last", "mean", "max", "mean+max"),
        tasks=("classify",),
        settled=True,
    )
    bptt: int = option(
        "steps of a window, at whose start the gradient is cut",
        group="model",
        tasks=("lm",),
        check=at_least(1),
        settled=True,
        metavar="STEPS",
    )
    horizon: int = option(
        "steps ahead to forecast",
        group="model",
        tasks=("forecast",),
        check=at_least(1),
        settled=True,
        metavar="STEPS",
    )
    window: int = option(
        "steps of the past that a forecast sees; 0: chosen from the season and the horizon",
        group="model",
        tasks=("forecast",),
        check=at_least(0),
        settled=True,
        metavar="STEPS",
    )
    season: int = option(
        "steps of a season; 0: found from the series",
        group="model",
        tasks=("forecast",),
        check=at_least(0),
        settled=True,
        metavar="STEPS",
    )

    # Training
    optimizer: str = option(
        "the optimiser",
        group="training",
        choices=("adam", "adamw", "sgd", "rmsprop"),
        settled=True,
    )
    lr: float = option(
        "learning rate (of a schedule: its highest)",
        group="training",
        check=positive,
        settled=True,
        metavar="RATE",
    )
    weight_decay: float = option(
        "weight decay", group="training", check=not_negative, settled=True, metavar="RATE"
    )
    schedule: str = option(
        "how the learning rate goes on",
        group="training",
        choices=("constant", "linear", "cosine", "one-cycle"),
        settled=True,
    )
    warmup: float = option(
        "share of all steps in which the learning rate rises from 0",
        group="training",
        check=part,
        settled=True,
        metavar="SHARE",
    )
    epochs: int = option(
        "times through the data", group="training", check=at_least(1), settled=True, metavar="N"
    )
    batch_size: int = option(
        "sequences a step, of all processes together",
        group="training",
        check=at_least(1),
        settled=True,
        metavar="N",
    )
    clip_norm: float = option(
        "longest gradient; 0: not clipped",
        group="training",
        check=not_negative,
        settled=True,
        metavar="NORM",
    )
    patience: int = option(
        "epochs without a better validation before it stops; 0: never",
        group="training",
        check=at_least(0),
        settled=True,
        metavar="EPOCHS",
    )
    seed: int = option(
        "all that is random follows from it", group="training", default=0, check=at_least(0)
    )
    threads: int = option(
        "processor threads; 0: what PyTorch takes",
        group="training",
        default=0,
        check=at_least(0),
        metavar="N",
    )

    # Output
    out: str | None = option(
        "the model's directory; by default named after the task and the data",
        group="output",
        metavar="DIR",
    )
    log: str | None = option(
        "also write a log for this program", group="output", choices=("tensorboard",)
    )

    def __post_init__(self) -> None:
        kinds = _types()
        for f in dataclasses.fields(self):
            if isinstance(getattr(self, f.name), list):
                object.__setattr__(self, f.name, tuple(getattr(self, f.name)))
            check_value(f, kinds[f.name], getattr(self, f.name))
            if self.task not in f.metadata["tasks"] and getattr(self, f.name) != f.default:
                raise InputError(
                    f"{f.name} is an option of {', '.join(f.metadata['tasks'])}; "
                    f"the task {self.task} doesn't know it: leave it out"
                )
        if self.data and self.dataset is not None:
            raise InputError(
                f"got files ({', '.join(self.data)}) and the data set {self.dataset!r}: "
                "give one of the two"
            )

    def settle(self, defaults: Mapping[str, Any]) -> TrainConfig:
        """A copy with ``defaults`` in the place of every ``None`` that they know.

        Fields that the task doesn't know stay ``None``.
        """
        known = option_fields(self.task)
        missing = {
            name: value
            for name, value in defaults.items()
            if name in known and getattr(self, name) is None
        }
        return dataclasses.replace(self, **missing)

    def replace(self, **changes: Any) -> TrainConfig:
        """A copy with other values."""
        _check_names(changes, "TrainConfig.replace")
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """The fields that this task knows and that aren't ``None`` or empty, in order."""
        values = {name: getattr(self, name) for name in option_fields(self.task)}
        return {name: value for name, value in values.items() if value not in (None, ())}

    def to_json(self) -> str:
        """As readable JSON; :meth:`from_json` reads it back."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "configuration") -> TrainConfig:
        """From names and values; ``where`` begins an error's message.

        Raises:
            InputError: an unknown name, a wrong type or value.
        """
        _check_names(values, where)
        # JSON and TOML write 1.0 as 1 at times.
        kinds = _types()
        exact: dict[str, Any] = {
            name: float(value) if kinds[name] is float and type(value) is int else value
            for name, value in values.items()
        }
        try:
            return cls(**exact)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None

    @classmethod
    def from_json(cls, text: str, where: str = "configuration") -> TrainConfig:
        """From JSON text. Raises: as :meth:`from_dict`, and for text that isn't a JSON object."""
        return cls.from_dict(_parsed(text, where, "json"), where)

    @classmethod
    def from_file(cls, path: Path) -> TrainConfig:
        """From a ``.json`` or ``.toml`` file. Raises: as :meth:`from_json`; a missing file."""
        return cls.from_dict(read_config_file(path), str(path))


def read_config_file(path: Path) -> dict[str, Any]:
    """The names and values in a ``.json`` or ``.toml`` file, unchecked but for their syntax.

    The ``config.json`` of a model directory has its settings under ``"config"``; they are what
    comes back.

    Raises:
        InputError: the file is missing or isn't JSON or TOML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: can't be read as a configuration: {error}") from error
    values = _parsed(text, str(path), "toml" if path.suffix == ".toml" else "json")
    inner = values.get("config")
    return inner if isinstance(inner, dict) else values


def option_fields(task: str | None = None) -> dict[str, dataclasses.Field[Any]]:
    """The fields by name, in order; of one task those that apply to it."""
    return {
        f.name: f
        for f in dataclasses.fields(TrainConfig)
        if task is None or task in f.metadata["tasks"]
    }


def option_type(name: str) -> Any:
    """A field's type: ``int``, ``float``, ``bool``, ``str`` or ``tuple[str, ...]``."""
    return bare(_types()[name])


def _types() -> dict[str, Any]:
    global _kinds
    if _kinds is None:
        _kinds = typing.get_type_hints(TrainConfig)
    return _kinds


_kinds: dict[str, Any] | None = None


def _check_names(values: Mapping[str, Any], where: str) -> None:
    known = option_fields()
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
            raise InputError(f"{where}: no option is called {name!r}; {hint}")


def _parsed(text: str, where: str, syntax: str) -> dict[str, Any]:
    try:
        if syntax == "toml":
            import tomllib

            values: Any = tomllib.loads(text)
        else:
            values = json.loads(text)
    except ValueError as error:
        raise InputError(f"{where}: is not {syntax.upper()}: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{where}: expected an object of names and values, got {text[:40]!r}")
    return values
