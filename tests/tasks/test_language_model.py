"""Language models: streams, carried state, the measure of surprise, parts of texts, sampling."""

from __future__ import annotations

import io
import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ostinato.data import BadRows, Document, StreamBatches, TextStream, read_rows
from ostinato.errors import DataError, ModelError
from ostinato.tasks.config import TrainConfig
from ostinato.tasks.language_model import LanguageModel
from ostinato.tasks.next_symbol import NextSymbol, next_symbol_loss, stretches, surprise
from ostinato.tasks.sampling import Sampling
from ostinato.tasks.text_parts import excerpt, split_text
from ostinato.train import Processes, fit

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

TEXT = "the cat sat on the mat. a dog ate it!\n"


def tokens_of(count: int, symbols: int = 9) -> NDArray[np.uint8]:
    return np.random.Generator(np.random.PCG64(0)).integers(0, symbols, count, dtype=np.uint8)


@pytest.fixture
def model() -> NextSymbol:
    torch.manual_seed(0)
    return NextSymbol(9, embedding=4, cell="lstm", hidden=8, layers=2).eval()


def exact(model: NextSymbol, tokens: NDArray[Any]) -> float:
    """Nats of all tokens but the first, read in one go."""
    row = torch.from_numpy(tokens.astype(np.int64))[:, None]
    with torch.no_grad():
        logits, _ = model(row[:-1])
    return float(F.cross_entropy(logits[:, 0].double(), row[1:, 0], reduction="sum"))


# ---- surprise


def test_stretches_cover_each_token_but_the_first_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(stretches([(0, 9_000)])) == 5
    monkeypatch.setattr("ostinato.tasks.next_symbol.SHORTEST", 1)
    spans = [(0, 100), (100, 101), (101, 101), (101, 350), (350, 352)]
    for parts in (0, 1, 7, 64, 1000):
        found = stretches(spans, parts)
        covered = sorted((s.document, t) for s in found for t in range(s.start, s.stop))
        wanted = [(n, t) for n, (first, end) in enumerate(spans) for t in range(first + 1, end)]
        assert covered == wanted
        assert all(s.begin == s.start - 1 for s in found)
        lengths = [s.stop - s.start for s in found]
        assert lengths == sorted(lengths, reverse=True)
        if parts == 0:
            assert len(found) == 3


@pytest.mark.parametrize("window", [1, 5, 256])
def test_surprise_of_whole_documents_is_exact(
    model: NextSymbol, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state is carried from window to window, whatever their size."""
    monkeypatch.setattr("ostinato.tasks.next_symbol._WINDOW", window)
    tokens = tokens_of(60)
    spans = [(0, 20), (20, 21), (21, 57), (57, 60)]
    with torch.no_grad():
        nats, counted = surprise(model, tokens, spans, whole=True)
    assert counted.tolist() == [19, 0, 35, 2]
    wanted = [exact(model, tokens[a:b]) if b - a > 1 else 0.0 for a, b in spans]
    np.testing.assert_allclose(nats, wanted, rtol=1e-5)


def test_surprise_in_stretches_is_nearly_that(
    model: NextSymbol, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ostinato.tasks.next_symbol.SHORTEST", 1_000)
    tokens = tokens_of(4000)
    with torch.no_grad():
        nats, counted = surprise(model, tokens, [(0, 4000)])
        shares = [surprise(model, tokens, [(0, 4000)], rank=r, world=3) for r in range(3)]
    assert counted.tolist() == [3999]
    assert nats[0] == pytest.approx(exact(model, tokens), rel=2e-3)
    assert sum(n[0] for n, _ in shares) == pytest.approx(nats[0], rel=1e-6)
    assert sum(int(c[0]) for _, c in shares) == 3999


# ---- the model and its loss


def test_the_state_is_carried_from_window_to_window(model: NextSymbol) -> None:
    tokens, carry, losses = tokens_of(1 + 3 * 20), None, []
    for batch in StreamBatches(tokens, 3, 7).epoch(0):
        outcome = next_symbol_loss(model, batch, carry)
        carry = outcome.carry
        losses.append((float(outcome.loss.detach()), outcome.terms))
    total = sum(loss * terms for loss, terms in losses)
    assert sum(terms for _, terms in losses) == 60
    wanted = sum(exact(model, tokens[b * 20 : b * 20 + 21]) for b in range(3))
    assert total == pytest.approx(wanted, rel=1e-5)
    # The first window of an epoch begins anew.
    [first, *_] = StreamBatches(tokens, 3, 7).epoch(1)
    again = next_symbol_loss(model, first, carry)
    assert float(again.loss.detach()) == pytest.approx(losses[0][0])


def test_a_tied_head_shares_the_embedding() -> None:
    tied = NextSymbol(9, embedding=8, cell="gru", hidden=8)
    names = dict(tied.named_parameters())
    assert not any(name.startswith("head") for name in names)
    logits, _ = tied(torch.zeros(2, 1, dtype=torch.int64))
    [grad] = torch.autograd.grad(logits[-1, 0, 5], names["encoder.embed.weight"])
    assert grad[5].any()  # as the head
    assert grad[0].any()  # as the embedding
    assert NextSymbol(9, embedding=4, cell="gru", hidden=8).head is not None


# ---- parts of texts


def text_of(stream: TextStream) -> str:
    return "".join(stream.blocks())


def test_few_documents_are_cut_in_order() -> None:
    texts = ["abcdefghij" * 10, "0123456789" * 3]
    stream = TextStream([Document.from_text(str(k), text) for k, text in enumerate(texts)])
    parts = split_text(stream)
    assert [text_of(parts[p]) for p in parts] == [
        texts[0][:80] + texts[1][:24],
        texts[0][80:90] + texts[1][24:27],
        texts[0][90:] + texts[1][27:],
    ]
    assert list(split_text(stream, ["test"])) == ["train", "test"]
    with pytest.raises(DataError, match="too little text"):
        split_text(TextStream([Document.from_text("a", "ab")]))


def test_many_documents_stay_whole_and_copies_together() -> None:
    texts = [f"Document number {k % 40}" for k in range(80)]
    texts[40:] = [text.upper() + "  " for text in texts[40:]]
    stream = TextStream([Document.from_text(f"d{k}", text) for k, text in enumerate(texts)])
    parts = split_text(stream)
    names = {part: {int(d.name[1:]) % 40 for d in s.documents} for part, s in parts.items()}
    assert sum(len(s) for s in parts.values()) == 80
    for a, b in itertools.combinations(names.values(), 2):
        assert not a & b
    again = split_text(TextStream(stream.documents[::-1]))
    for part in parts:
        assert {d.name for d in again[part].documents} == {d.name for d in parts[part].documents}


def test_an_excerpt_over_blocks() -> None:
    def blocks() -> Any:
        yield from ("abc", "de", "fghi")

    document = Document("a", blocks, "mark")
    for start, stop in [(0, 9), (0, 3), (2, 4), (3, 3), (4, 9), (5, 6)]:
        part = excerpt(document, start, stop)
        assert "".join(part.open()) == "abcdefghi"[start:stop]
        assert all(part.open())
        assert part.fingerprint == f"mark {start} {stop}"


# ---- the task


def task_of(folder: Path, text: str = TEXT * 120, **more: Any) -> LanguageModel:
    (folder / "text.txt").write_text(text)
    given: dict[str, Any] = {"hidden": 24, "batch_size": 4, "bptt": 16, "epochs": 4, "lr": 1e-2}
    config = TrainConfig(task="lm", data=(str(folder / "text.txt"),), **{**given, **more})
    task = LanguageModel(config)
    task.read(BadRows())
    return task


def trained(task: LanguageModel) -> NextSymbol:
    torch.manual_seed(0)
    model = task.build()
    assert isinstance(model, NextSymbol)
    prepared = task.prepare(model, None)
    config = task.config
    history = fit(
        model,
        prepared.batches,
        prepared.objective,
        epochs=config.epochs,
        lr=config.lr,
        validate=prepared.validate,
    )
    assert history.epochs[-1].metrics["val_loss"] < history.epochs[0].metrics["val_loss"]
    return model


def test_it_learns_and_speaks(tmp_path: Path) -> None:
    task = task_of(tmp_path)
    model = trained(task)
    evaluation = task.evaluate(model, None, BadRows())
    metrics = evaluation.metrics
    assert metrics["bits_per_character"] == pytest.approx(metrics["loss"] / math.log(2))
    assert metrics["bits_per_character"] < 0.3  # a sentence that is repeated
    said = "".join(task.generate(model, "the c", 60, Sampling(temperature=0)))
    assert said == (TEXT * 3)[5:65]
    assert task.unknown_in("thé ñe") == {"é": 1, "ñ": 1}
    assert len("".join(task.generate(model, "thé", 10, Sampling()))) == 10
    assert "<unk>" not in "".join(task.generate(model, "", 200, Sampling(temperature=100.0)))

    again = LanguageModel.restore(task.config, task.meta())
    copy = again.build()
    copy.load_state_dict(model.state_dict())
    assert again.evaluate(copy, None, BadRows()).metrics == metrics

    (tmp_path / "other.txt").write_text("tha cet é\n")
    (tmp_path / "known.txt").write_text(TEXT)
    paths = [tmp_path / "other.txt", tmp_path / "known.txt"]
    evaluation = task.evaluate(model, paths, BadRows())
    assert evaluation.notes[1] == "1 of them are unknown to the model"
    [table] = evaluation.tables
    assert [row[:2] for row in table.rows] == [[str(paths[0]), "9"], [str(paths[1]), "37"]]
    assert float(table.rows[0][2]) > 5 > float(table.rows[1][2])

    rows = read_rows(io.BytesIO(b"text\nthe cat sat on\nx\ndog zz\n"), BadRows())
    bad = BadRows("skip")
    [fits, odd] = task.predict(model, rows, bad)
    assert (fits["tokens"], fits["unknown"], odd["tokens"], odd["unknown"]) == (13, 0, 5, 2)
    assert fits["bits"] < 1 < odd["bits"]
    assert bad.count == 1


def test_words(tmp_path: Path) -> None:
    task = task_of(tmp_path, level="word", hidden=16, embedding=16, vocabulary=9, dropout=0.1)
    assert task.vocabulary is not None
    assert len(task.vocabulary) == 9
    model = trained(task)
    assert model.tied
    metrics = task.evaluate(model, None, BadRows()).metrics
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["loss"]))
    assert metrics["perplexity"] < 6
    said = "".join(task.generate(model, "the cat", 40, Sampling(temperature=0.5)))
    assert "<unk>" not in said
    assert " ." not in said
    assert "\n " not in said


def test_what_the_task_chooses(tmp_path: Path) -> None:
    task = task_of(tmp_path, epochs=None)
    assert task.config.epochs == 50  # a short text
    assert (task.config.embedding, task.config.cell) == (64, "gru")
    (tmp_path / "w").mkdir()
    words = task_of(tmp_path / "w", level="word", hidden=None, dropout=None, lr=None)
    assert (words.config.embedding, words.config.hidden, words.config.lr) == (256, 256, 3e-3)


def test_files_named_after_their_part(tmp_path: Path) -> None:
    files = {"train.txt": TEXT * 9, "valid.txt": "a dog ", "test.txt": "the cat sat!!"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    config = TrainConfig(task="lm", data=tuple(str(tmp_path / name) for name in files), hidden=8)
    task = LanguageModel(config)
    task.read(BadRows())
    evaluation = task.evaluate(task.build().eval(), None, BadRows())
    assert evaluation.notes[0].startswith("12 characters")
    assert task.vocabulary is not None
    assert set(task.vocabulary.tokens) == {"<unk>", *TEXT}


def test_processes_share_the_validation(tmp_path: Path) -> None:
    task = task_of(tmp_path)
    torch.manual_seed(0)
    model = task.build().eval()

    class Half(Processes):
        """One of two, whose counts are the other's too: a sum that can be foretold."""

        def total(self, values: Any) -> list[float]:
            seen.append(list(values))
            return [float(v) for v in values]

    seen: list[list[float]] = []
    with torch.no_grad():
        alone = task.prepare(model, None).validate(model)
        for rank in (0, 1):
            task.prepare(model, Half(rank, 2)).validate(model)
    nats, tokens = (sum(values) for values in zip(*seen, strict=True))
    assert nats / tokens == pytest.approx(alone["val_loss"], rel=1e-6)


def test_a_damaged_description_is_refused(tmp_path: Path) -> None:
    task = task_of(tmp_path)
    for meta in ({}, {"vocabulary": {"tokens": 3}}):
        with pytest.raises(ModelError, match=r"damaged"):
            LanguageModel.restore(task.config, meta)


def test_nothing_is_left_in_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    task = task_of(tmp_path)
    prepared = task.prepare(task.build(), None)
    assert not list(scratch.iterdir())
    assert len(list(prepared.batches.epoch(0))) > 10  # the mapped file is still read
