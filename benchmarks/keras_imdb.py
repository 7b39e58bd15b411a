"""How soon Keras reads IMDB as well as wanted, with the default model of ``ostinato train``.

    KERAS_BACKEND=jax python -m benchmarks.keras_imdb --json jax.json
    KERAS_BACKEND=torch python -m benchmarks.keras_imdb --padding fixed --budget 1500

The same data, split, words and vocabulary, and the same model as that command's defaults, written
as a user of Keras writes it: an embedding with ``mask_zero=True``, ``SpatialDropout1D``, ``GRU``,
pooling, ``Dropout``, ``Dense``; Adam, batch size, clipping, number of epochs and schedule of the
learning rate are the same, too; initial values are Keras's own. Weights of a GRU layer in Keras are
initialised as a whole, not gate by gate; the embedding's deviation is set to ours.

Padding: ``fixed`` pads every review to the longest that there may be, as Keras's tutorials do;
``buckets`` puts reviews of similar length together and pads each batch to a multiple of 50 steps,
so that a backend that compiles does so for few shapes.

The clock and the checks of the accuracy are those of ``benchmarks.time_to_accuracy``, which shows
ours beside. Not even a validation is in Keras's time.
"""

from __future__ import annotations

import time

BEGIN = time.perf_counter()

import argparse  # noqa: E402
import json  # noqa: E402
import math  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import TYPE_CHECKING, Any  # noqa: E402

import keras  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks.time_to_accuracy import Curve, markdown  # noqa: E402
from ostinato.data import named  # noqa: E402
from ostinato.tasks.classify import EMBEDDING_STD, Classify  # noqa: E402
from ostinato.tasks.config import TrainConfig  # noqa: E402
from ostinato.tasks.inputs import TextInput  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ostinato.data.examples import TextExamples

    Texts = tuple[list[NDArray[np.int64]], NDArray[np.int64]]

#: Steps to a multiple of which a batch of similar lengths is padded.
BUCKET = 50
#: Batches whose rows are sorted by length together, as ours.
POOL = 50
#: Reviews of a batch where nothing is learnt.
ROWS = 256


class SpentError(Exception):
    """The budget is used up."""


class Budget(keras.callbacks.Callback):
    """Tells the curve each batch's end; ends training at the first one past the budget."""

    def __init__(self, curve: Curve, seconds: float) -> None:
        super().__init__()
        self.curve, self.seconds = curve, seconds

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.curve.batch() > self.seconds:
            raise SpentError


class Padded(keras.utils.PyDataset):
    """Batches of reviews, number 0 past their ends; ``width`` 0: to a multiple of ``BUCKET``."""

    def __init__(self, texts: Texts, batches: Sequence[NDArray[np.int64]], width: int) -> None:
        super().__init__()
        self.texts, self.batches, self.width = texts, batches, width

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        inputs, targets = self.texts
        rows = self.batches[index]
        longest = max(len(inputs[i]) for i in rows)
        width = self.width or -(-longest // BUCKET) * BUCKET
        x = np.zeros((len(rows), width), dtype=np.int32)
        for line, i in zip(x, rows, strict=True):
            line[: len(inputs[i])] = inputs[i] + 1  # 0 is for the padding
        return x, targets[rows]


class OneCycle(keras.optimizers.schedules.LearningRateSchedule):
    """The shape of :func:`ostinato.train.schedules.one_cycle`."""

    def __init__(self, rate: float, steps: int) -> None:
        super().__init__()
        self.rate, self.steps = rate, steps

    def __call__(self, step: Any) -> Any:
        low, final, turn = 1 / 25, 1e-4 / 25, 0.3 * self.steps
        step = keras.ops.cast(step, "float32")
        up = low + (1 - low) * 0.5 * (1 - keras.ops.cos(math.pi * step / turn))
        share = (step - turn) / (self.steps - turn)
        down = final + (1 - final) * 0.5 * (1 + keras.ops.cos(math.pi * share))
        return self.rate * keras.ops.where(step < turn, up, down)

    def get_config(self) -> dict[str, Any]:
        return {"rate": self.rate, "steps": self.steps}


def settings(texts: int) -> TrainConfig:
    """The defaults of the command for so many training texts.

    Raises:
        SystemExit: this file's model isn't theirs any more.
    """
    epochs = min(max(round(60_000 / texts), 3), 60)
    config = TrainConfig(task="classify").settle({**Classify.defaults, "epochs": epochs})
    written = {
        "cell": "gru",
        "layers": 1,
        "bidirectional": False,
        "pool": "mean+max",
        "optimizer": "adam",
        "weight_decay": 0.0,
        "schedule": "one-cycle",
        "warmup": 0.0,
    }
    other = [name for name, value in written.items() if getattr(config, name) != value]
    if other:
        raise SystemExit(f"the defaults have changed in {', '.join(other)}; change build() too")
    return config


def build(symbols: int, labels: int, config: TrainConfig, steps: int) -> keras.Model:
    """The compiled model, for so many symbols besides the padding and so many training steps."""
    layers = keras.layers
    words = keras.Input((None,), dtype="int32")
    x = layers.Embedding(
        symbols + 1,
        config.embedding,
        mask_zero=True,
        embeddings_initializer=keras.initializers.RandomNormal(stddev=EMBEDDING_STD),
    )(words)
    x = layers.SpatialDropout1D(config.dropout)(x)
    x = layers.GRU(config.hidden, return_sequences=True)(x)
    # Past its end a row repeats its last output, so that the largest is that of its own steps:
    # GlobalMaxPooling1D's result, without its warning that it knows no masks.
    pooled = [layers.GlobalAveragePooling1D()(x), keras.ops.max(x, axis=1)]
    x = layers.Dropout(config.dropout)(layers.Concatenate()(pooled))
    model = keras.Model(words, layers.Dense(labels)(x))
    model.compile(
        optimizer=keras.optimizers.Adam(
            OneCycle(config.lr, steps), epsilon=1e-8, global_clipnorm=config.clip_norm
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def batches_of(
    lengths: NDArray[np.int64], rows: int, random: np.random.Generator, *, similar: bool
) -> list[NDArray[np.int64]]:
    """An epoch's batches of exactly ``rows`` rows; what is left over waits for other epochs."""
    count = len(lengths) // rows
    order = random.permutation(len(lengths))[: count * rows]
    if not similar:
        return np.split(order, count)
    batches: list[NDArray[np.int64]] = []
    for first in range(0, len(order), POOL * rows):
        pool = order[first : first + POOL * rows]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += np.split(pool, len(pool) // rows)
    return [batches[i] for i in random.permutation(count)]


def accuracy(model: keras.Model, texts: Texts, width: int) -> float:
    """Share of the texts whose label is right."""
    order = np.argsort([len(one) for one in texts[0]], kind="stable")
    batches = np.split(order, range(ROWS, len(order), ROWS))
    logits = model.predict(Padded(texts, batches, width), verbose=0)
    return float((logits.argmax(-1) == texts[1][order]).mean())


def train(
    train_part: TextExamples,
    held_out: TextExamples,
    curve: Curve,
    *,
    padding: str,
    checks: int,
    budget: float,
) -> None:
    """Train for as many epochs as the command does, or until the budget (s) is used up."""
    config = settings(len(train_part))
    reader, encoded = TextInput.learn(train_part.texts, config)
    number = {label: i for i, label in enumerate(sorted(set(train_part.labels)))}

    def labelled(inputs: list[Any], part: TextExamples) -> Texts:
        return inputs, np.array([number[label] for label in part.labels])

    data = labelled(encoded, train_part)
    test = labelled([reader.encode(text) for text in held_out.texts], held_out)
    lengths = np.array([len(one) for one in encoded])
    width = config.max_length if padding == "fixed" else 0
    keras.utils.set_random_seed(curve.seed)
    random = np.random.default_rng(curve.seed)
    epoch_batches = len(lengths) // config.batch_size
    model = build(reader.symbols, len(number), config, epoch_batches * config.epochs)
    counting = Budget(curve, budget)
    curve.start()
    try:
        for epoch in range(config.epochs):
            plan = batches_of(lengths, config.batch_size, random, similar=not width)
            for k, part in enumerate(np.array_split(np.arange(len(plan)), checks)):
                own = Padded(data, [plan[i] for i in part], width)
                model.fit(own, shuffle=False, verbose=0, callbacks=[counting])
                curve.check(epoch + (k + 1) / checks, lambda: accuracy(model, test, width))
    except SpentError:
        print(
            f"{curve.now():8.1f} s  the budget is used up after {len(curve.batches)} batches; "
            f"{curve.median_batch() * 1e3:.1f} ms a batch: an epoch of {epoch_batches} takes "
            f"{curve.median_batch() * epoch_batches:.0f} s"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.keras_imdb", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--padding", choices=("fixed", "buckets"), default="buckets")
    parser.add_argument("--checks", type=int, default=8, help="of the accuracy, each epoch")
    parser.add_argument("--budget", type=float, default=3600, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the result here")
    given = parser.parse_args()
    reviews = named.load("imdb")
    assert reviews.test is not None
    who = f"Keras {keras.__version__} on {keras.backend.backend()}, {given.padding}"
    curve = Curve(who, given.seed, BEGIN)
    train(
        reviews.train,
        reviews.test,
        curve,
        padding=given.padding,
        checks=given.checks,
        budget=given.budget,
    )
    if given.json is not None:
        given.json.write_text(json.dumps(curve.to_json(), indent=1) + "\n", encoding="utf-8")
    print(markdown([curve.to_json()]))


if __name__ == "__main__":
    main()
