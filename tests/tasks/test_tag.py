"""Tagging: context and spelling decide where a word's most frequent tag is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from ostinato.data import BadRows, Vocabulary
from ostinato.data.rows import Row
from ostinato.errors import DataError, InputError
from ostinato.tasks import run
from ostinato.tasks.config import TrainConfig
from ostinato.tasks.tag import Tag
from ostinato.tasks.tagger import Spelling, spelt
from small_data import sentences, small

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a model of sentences."""
    path = sentences(tmp_path_factory.mktemp("sentences") / "s.conll")
    result = run.train(small(path, task="tag", epochs=8))
    assert result.evaluation is not None
    assert result.evaluation.metrics["accuracy"] == 1.0
    return result.directory


def test_better_than_the_most_frequent_tag(trained: Path) -> None:
    found = run.evaluate(trained)
    # The baseline is wrong at each noun that is a verb and at each word it hasn't seen.
    assert 0.5 < found.metrics["baseline_accuracy"] < 0.95
    assert found.metrics["error_reduction"] == 1.0
    assert found.tables[0].rows[0][-1] == "0.00%"
    assert "aren't in the training data" in found.notes[1]


def test_baseline_by_hand(trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "few.conll"
    path.write_text("the D\nfilm N\nfilm V\n\nnew X\nthe D\n")
    found = run.evaluate(trained, [path])
    # One of the two films, the only X: 2 of 5 are wrong.
    assert found.metrics["baseline_accuracy"] == pytest.approx(0.6)


def test_predictions(trained: Path) -> None:
    rows = [
        Row({"tokens": ["the", "rose", "rose", "the", "film"]}, "a:1"),
        Row({"id": 3, "text": "no99 the film film the sea"}, "a:2"),
        Row({"text": "  "}, "a:3"),
    ]
    bad = BadRows("skip")
    found = list(run.predict(trained, rows, bad))
    assert [f["tags"] for f in found] == [list("DNVDN"), list("XDNVDN")]
    assert found[1]["tokens"] == ["no99", "the", "film", "film", "the", "sea"]
    assert [f["unknown"] for f in found] == [0, 0] or found[1]["unknown"] == 1
    assert bad.count == 1
    with pytest.raises(InputError, match="expected a column tokens, words, text, sentence"):
        list(run.predict(trained, [Row({"a": "x", "b": "y"}, "a:1")]))


def test_an_unknown_tag_is_a_bad_row(trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "few.conll"
    path.write_text("the D\nfilm Q\n\nthe D\n")
    with pytest.raises(DataError, match=r"few\.conll:1: a tag that the model doesn't know: Q"):
        run.evaluate(trained, [path])
    bad = BadRows("skip")
    assert run.evaluate(trained, [path], bad).metrics["accuracy"] == 1.0
    assert bad.count == 1


def test_words_that_come_once_are_unknown_but_spelt(tmp_path: Path) -> None:
    task = Tag(TrainConfig(task="tag", data=[str(sentences(tmp_path / "s.conll"))]))
    task.read(BadRows())
    assert task.words is not None
    assert task.characters is not None
    once = next(word for word in task.usual if word.startswith("no"))
    assert once not in task.words
    assert task.tags[0] in "DN"
    a, b = spelt(once, task.characters), spelt("no", task.characters)
    assert task.characters.decode(a[:2]) == ["n", "o"]
    assert task.characters.decode(b) == ["n", "o", "<pad>", "n", "o"]


def test_spelling_follows_the_batch() -> None:
    characters = Vocabulary.build([list("abc")], padding=True)
    spelling = Spelling([["a", "b"], ["c"], ["ab", "c", "ca"]], characters)
    found = spelling.of(torch.tensor([2, 1]), 3)
    assert found.shape == (3, 2, 5)
    for t, word in enumerate(["ab", "c", "ca"]):
        np.testing.assert_array_equal(found[t, 0], spelt(word, characters))
    np.testing.assert_array_equal(found[0, 1], spelt("c", characters))
