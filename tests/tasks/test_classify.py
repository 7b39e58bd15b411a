"""Classification: texts and series of each form are learnt, evaluated and predicted."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from ostinato.data import BadRows, read_rows
from ostinato.errors import DataError, InputError
from ostinato.tasks import run
from ostinato.tasks.classifier import Classifier
from ostinato.tasks.classify import Classify
from ostinato.tasks.config import TrainConfig
from ostinato.tasks.encoder import Encoder, cell_maker
from ostinato.tasks.inputs import TextInput
from ostinato.train import Processes
from small_data import reviews, small, waves

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a model of reviews."""
    path = reviews(tmp_path_factory.mktemp("reviews") / "reviews.csv")
    result = run.train(small(path))
    assert result.evaluation is not None
    assert result.evaluation.metrics["accuracy"] == 1.0
    return result.directory


def test_texts_are_learnt_and_the_tables_add_up(trained: Path) -> None:
    found = run.evaluate(trained)
    labels, confusion = found.tables
    assert found.metrics["accuracy"] == found.metrics["macro_f1"] == 1.0
    assert found.metrics["loss"] < 0.3
    assert confusion.columns == ["", "bad", "good"]
    (bad, a, b), (good, c, d) = confusion.rows
    assert (bad, good, b, c) == ("bad", "good", "0", "0")
    assert int(a) + int(d) == sum(int(row[-1]) for row in labels.rows)
    assert found.metrics["majority_accuracy"] == max(int(a), int(d)) / (int(a) + int(d))
    assert "held-out part" in found.notes[0]


def test_other_files_are_evaluated(trained: Path, tmp_path: Path) -> None:
    path = reviews(tmp_path / "more.csv", count=40, seed=5)
    found = run.evaluate(trained, [path])
    assert found.metrics["accuracy"] == 1.0
    assert found.metrics["majority_accuracy"] == 0.5
    with path.open("a") as file:
        file.write("40,a film,neither\n41,...,good\n")
    with pytest.raises(DataError, match=r"more\.csv:42: a label that the model doesn't know"):
        run.evaluate(trained, [path])
    bad = BadRows("skip")
    found = run.evaluate(trained, [path], bad)
    assert bad.count == 2
    assert found.metrics["accuracy"] == 1.0
    assert "more.csv:43" in found.notes[-1]


def test_predictions_come_while_reading_and_count_unknown_words(trained: Path) -> None:
    text = b"text\ngreat film\nxyzzy awful plugh\n...\nthe great house\n"
    rows = read_rows(io.BytesIO(text), BadRows())
    bad = BadRows("skip")
    found = list(run.predict(trained, rows, bad))
    assert [f["label"] for f in found] == ["good", "bad", "good"]
    assert [f["unknown"] for f in found] == [0, 2, 0]
    assert all(0.5 < f["probability"] <= 1 for f in found)
    assert bad.count == 1

    read = []

    def endless():
        for row in iter(lambda: next(iter(read_rows(io.BytesIO(text), BadRows()))), None):
            read.append(row)
            yield row

    first = next(run.predict(trained, endless()))
    assert first["label"] == "good"
    assert len(read) == 64


def test_a_prediction_does_not_depend_on_its_neighbours(trained: Path, tmp_path: Path) -> None:
    path = reviews(tmp_path / "some.csv", count=30, seed=9)
    together = list(run.predict(trained, read_rows(path, BadRows())))
    for row, batched in zip(read_rows(path, BadRows()), together, strict=True):
        (alone,) = run.predict(trained, [row])
        assert alone["label"] == batched["label"]
        assert alone["probability"] == pytest.approx(batched["probability"], abs=1e-5)


def test_series_in_long_form(tmp_path: Path) -> None:
    path = waves(tmp_path / "waves.csv")
    config = small(path, group="id", time="t", label="kind", cell="lstm", epochs=12, pool="last")
    result = run.train(config)
    assert result.evaluation is not None
    assert result.evaluation.metrics["accuracy"] == 1.0
    task = Classify(config)
    task.read(BadRows())
    assert task.input is not None
    mean, scale = task.input.to_json()["mean"], task.input.to_json()["scale"]
    assert mean[0] == pytest.approx(100, abs=2)
    assert scale[1] == pytest.approx(1, abs=0.2)
    more = waves(tmp_path / "more.csv", count=6, seed=3)
    found = list(run.predict(result.directory, read_rows(more, BadRows())))
    assert [f["label"] for f in found] == ["down", "up"] * 3
    assert [f["id"] for f in found] == [f"s{i}" for i in range(6)]
    # A series is what its times say, whatever the order of its rows.
    head, *rows = more.read_text().splitlines()
    rows.sort(key=lambda row: (row.split(",")[0], -int(row.split(",")[1])))
    more.write_text("\n".join([head, *rows]))
    assert list(run.predict(result.directory, read_rows(more, BadRows()))) == found


def test_series_in_wide_form_with_different_lengths(tmp_path: Path) -> None:
    rows = [",name,y,t0,t1,t2,t3"]
    for i in range(120):
        values = [str((i % 7) + (1 if i % 2 else -1) * t + i / 200) for t in range(2 + i % 3)]
        rows.append(",".join([str(i), f"n{i}", str(i % 2), *values, *[""] * (4 - len(values))]))
    path = tmp_path / "wide.csv"
    path.write_text("\n".join(rows))
    result = run.train(small(path, epochs=10))
    assert result.evaluation is not None
    assert result.evaluation.metrics["accuracy"] == 1.0
    # Columns that were no steps in training aren't now; one without a name numbers the rows.
    text = b",t0,t1,t2,t3,name\n7,3,4,,,a\n8,3,2,1,0,b\n9,3,,1,0,c\n9,,,,,d\n"
    bad = BadRows("skip")
    found = list(run.predict(result.directory, read_rows(io.BytesIO(text), BadRows()), bad))
    assert [f["label"] for f in found] == ["1", "0"]
    assert bad.examples == [
        "the open file:4: a number is missing within the series: 't1'",
        "the open file:5: the series is empty",
    ]
    lists = b'{"s": [3, 4]}\n{"s": []}\n{"s": [[1, 2]]}\n'
    found = list(run.predict(result.directory, read_rows(io.BytesIO(lists), BadRows()), bad))
    assert [f["label"] for f in found] == ["1"]
    assert bad.examples[2:] == [
        "the open file:2: 's' isn't a list of one or more steps",
        "the open file:3: the series has another number of channels than 1: 2",
    ]


def test_japanese_vowels_on_its_own_test_split(tmp_path: Path) -> None:
    config = TrainConfig(
        dataset="japanese-vowels",
        epochs=6,
        lr=0.01,
        out=str(tmp_path / "m"),
        hidden=32,
        batch_size=32,
    )
    result = run.train(config)
    assert result.evaluation is not None
    assert result.evaluation.notes[0].startswith("370 examples")
    assert result.evaluation.metrics["accuracy"] > 0.9


def test_more_processes_than_examples_to_validate(tmp_path: Path) -> None:
    class Third(Processes):
        """The last of three, alone for the test: what the others would add is nothing."""

        def total(self, values: Sequence[float]) -> list[float]:
            assert list(values) == [0.0, 0.0, 0]
            return [1.5, 1.0, 2.0]

    paths = [reviews(tmp_path / f"{side}.csv", n) for side, n in (("train", 20), ("dev", 2))]
    task = Classify(small(paths[0]).replace(data=tuple(map(str, paths))))
    task.read(BadRows())
    model = task.build()
    found = task.prepare(model, Third(2, 3)).validate(model)
    assert found == {"val_loss": 0.75, "val_accuracy": 0.5}


def test_the_data_decide_what_the_configuration_leaves_open(tmp_path: Path) -> None:
    text = Classify(TrainConfig(data=[str(reviews(tmp_path / "a.csv"))]))
    text.read(BadRows())
    assert text.config.text == "text"
    assert text.config.label == "label"
    assert text.config.epochs == 60
    assert text.config.max_length == Classify.defaults["max_length"]
    series = Classify(TrainConfig(data=[str(waves(tmp_path / "b.csv"))], group="id", label="kind"))
    series.read(BadRows())
    assert series.config.bidirectional is True
    assert series.config.max_length is None


def test_files_that_say_their_side_are_that_side(tmp_path: Path) -> None:
    paths = [
        reviews(tmp_path / f"my-{name}.csv", count, seed=count)
        for name, count in (("train", 60), ("dev", 20), ("test", 30))
    ]
    task = Classify(TrainConfig(data=[str(p) for p in paths]))
    task.read(BadRows())
    notes = task.prepare(task.build(), None).notes
    assert notes[0].endswith("60 train, 20 validation, 30 test")


def test_one_label_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "".join(f"word{i} and so on,yes\n" for i in range(30)))
    with pytest.raises(InputError, match="all examples have the label 'yes'"):
        Classify(TrainConfig(data=[str(path)])).read(BadRows())


@pytest.mark.parametrize("pool", ["last", "mean", "max", "mean+max"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_pooling_looks_at_valid_steps_alone(pool: str, bidirectional: bool) -> None:
    torch.manual_seed(0)
    encoder = Encoder(channels=3, embedding=4, cell="elman", hidden=5, bidirectional=bidirectional)
    model = Classifier(encoder, 2, pool, 0.0).double().eval()
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    both = model(x, torch.tensor([6, 2]))
    short = model(x[:2, 1:], torch.tensor([2]))
    torch.testing.assert_close(both[1:], short)

    # The same from the outputs themselves, in the plainest way.
    y, _ = encoder(x[:2, 1:], torch.tensor([2]))
    last = torch.cat([y[1, 0, :5], y[0, 0, 5:]])
    pooled = {"last": last, "mean": y[:, 0].mean(0), "max": y[:, 0].amax(0)}
    wanted = torch.cat([pooled[how] for how in pool.split("+")])
    torch.testing.assert_close(short[0], model.head(wanted))


def test_long_texts_keep_their_beginning_and_end() -> None:
    learnt, (encoded,) = TextInput.learn(
        ["a b c d e f g"], TrainConfig(max_length=5, level="word", vocabulary=0)
    )
    assert learnt.vocabulary.decode(encoded) == ["a", "b", "c", "f", "g"]
    np.testing.assert_array_equal(learnt.encode("a b c x y z d e f g"), encoded)


def test_vocabulary_is_learnt_from_the_most_frequent_words() -> None:
    texts = ["b b a", "c b a a a"]
    learnt, encoded = TextInput.learn(texts, TrainConfig(max_length=0, level="word", vocabulary=3))
    assert learnt.vocabulary.tokens == ("<unk>", "a", "b")
    for text, one in zip(texts, encoded, strict=True):
        np.testing.assert_array_equal(learnt.encode(text), one)
    assert learnt.unknown(encoded[1]) == 1


def test_a_cell_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_cell.py").write_text(
        "import torch\n"
        "class Leaky(torch.nn.Module):\n"
        "    def __init__(self, input_size, hidden_size):\n"
        "        super().__init__()\n"
        "        self.input_size, self.hidden_size = input_size, hidden_size\n"
        "        self.both = torch.nn.Linear(input_size + hidden_size, hidden_size)\n"
        "    def forward(self, x, h):\n"
        "        return 0.5 * h + 0.5 * torch.tanh(self.both(torch.cat([x, h], -1)))\n"
    )
    monkeypatch.chdir(tmp_path)
    result = run.train(small(reviews(tmp_path / "r.csv"), cell="my_own_cell:Leaky", epochs=12))
    assert result.evaluation is not None
    assert result.evaluation.metrics["accuracy"] == 1.0
    with pytest.raises(InputError, match=r"my_own_cell\.py has no class 'Other'"):
        cell_maker("my_own_cell:Other")
    with pytest.raises(InputError, match="the module 'not_there' can't be imported"):
        cell_maker("not_there:Cell")
    with pytest.raises(InputError, match="no cell is called 'grue'; did you mean 'gru'"):
        cell_maker("grue")
