"""Streams of tokens: files in bounded memory, windows that follow one another."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from ostinato.data import (
    BadRows,
    Document,
    StreamBatches,
    TextStream,
    TokenFile,
    Vocabulary,
    count_tokens,
    pieces,
    read_text_stream,
    streams,
    words,
)
from ostinato.errors import DataError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TEXT = "To be, or not to be: that's the question — \u2019tis nobler.\n漢字 ไป\n" * 3


def in_blocks(text: str, size: int) -> Document:
    return Document("d", lambda: (text[i : i + size] for i in range(0, len(text), size)))


# ---- counting and encoding


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize("tokenize", [streams.characters, pieces], ids=["characters", "pieces"])
def test_blocks_make_no_difference(
    size: int, tokenize: Callable[[str], list[str]], tmp_path: Path
) -> None:
    stream = TextStream([in_blocks(TEXT, size), in_blocks("end", 1), in_blocks("less", 1)])
    tokens = tokenize(TEXT) + tokenize("end") + tokenize("less")
    counts = count_tokens(stream, tokenize)
    assert counts == Counter(tokens)
    vocabulary = Vocabulary.build(counts)
    found = TokenFile.encode(stream, vocabulary, tmp_path / "tokens", tokenize)
    assert found.tokens.tolist() == vocabulary.encode(tokens).tolist()
    assert len(found) == len(tokens)
    assert found.characters == len(TEXT) + 7
    assert found.unknown == 0


def test_unknown_tokens_are_counted(tmp_path: Path) -> None:
    stream = TextStream([Document.from_text("d", "abcabd")])
    vocabulary = Vocabulary.build([["a", "b"]])
    found = TokenFile.encode(stream, vocabulary, tmp_path / "tokens")
    assert found.tokens.tolist() == [1, 2, 0, 1, 2, 0]
    assert found.unknown == 2
    words = TextStream([Document.from_text("d", "to be or not")])
    assert TokenFile.encode(words, Vocabulary(["be"]), tmp_path / "words", pieces).unknown == 3
    strict = Vocabulary.build([["a", "b"]], unknown=False)
    with pytest.raises(InputError, match="'c' isn't one of the 2 tokens"):
        TokenFile.encode(stream, strict, tmp_path / "strict")
    assert [p.name for p in sorted(tmp_path.iterdir())] == [
        "tokens",
        "tokens.json",
        "words",
        "words.json",
    ]


@pytest.mark.parametrize(
    ("size", "dtype"), [(256, "uint8"), (257, "uint16"), (65536, "uint16"), (65537, "uint32")]
)
def test_numbers_are_as_small_as_they_can_be(size: int, dtype: str, tmp_path: Path) -> None:
    vocabulary = Vocabulary([chr(0x20 + i + (0x800 if i > 0xD000 else 0)) for i in range(size - 1)])
    assert len(vocabulary) == size
    last = vocabulary.tokens[-1]
    stream = TextStream([Document.from_text("d", " " + last)])
    found = TokenFile.encode(stream, vocabulary, tmp_path / "tokens")
    assert found.tokens.dtype == dtype
    assert found.tokens.tolist() == [1, size - 1]
    again = TokenFile.open(tmp_path / "tokens")
    assert again.tokens.tolist() == [1, size - 1]


def test_documents_begin_where_it_says(tmp_path: Path) -> None:
    stream = TextStream([Document.from_text(name, name * 3) for name in ("a", "bc", "d")])
    vocabulary = Vocabulary.build(count_tokens(stream))
    found = TokenFile.encode(stream, vocabulary, tmp_path / "tokens")
    assert found.starts == {"a": 0, "bc": 3, "d": 9}
    assert TokenFile.open(found.path).starts == found.starts
    assert not found.tokens.flags.writeable


def test_an_empty_text(tmp_path: Path) -> None:
    found = TokenFile.encode(TextStream([]), Vocabulary(["a"]), tmp_path / "tokens")
    assert len(found) == len(TokenFile.open(found.path).tokens) == 0


# ---- the file


class Reads:
    """A document that counts how often it is read."""

    def __init__(self, text: str, fingerprint: str) -> None:
        self.count = 0
        self.document = Document("d", self._blocks, fingerprint)
        self.text = text

    def _blocks(self) -> Iterator[str]:
        self.count += 1
        yield self.text


def test_the_same_text_is_encoded_once(tmp_path: Path) -> None:
    reads = Reads("abab", "1")
    stream, path = TextStream([reads.document]), tmp_path / "tokens"
    for vocabulary, tokenize, count in (
        (Vocabulary(["a", "b"]), streams.characters, 1),
        (Vocabulary(["a", "b"]), streams.characters, 1),
        (Vocabulary(["b", "a"]), streams.characters, 2),
        (Vocabulary(["b", "a"]), pieces, 3),
        (Vocabulary(["b", "a"]), pieces, 3),
    ):
        found = TokenFile.encode(stream, vocabulary, path, tokenize)
        assert reads.count == count
        assert found.tokens.tolist() == vocabulary.encode(tokenize("abab")).tolist()
    nobody_knows = Reads("abab", "")
    for count in (1, 2):
        TokenFile.encode(TextStream([nobody_knows.document]), Vocabulary(["a"]), path)
        assert nobody_knows.count == count


def test_a_file_that_changes_is_encoded_anew(tmp_path: Path) -> None:
    text, path = tmp_path / "a.txt", tmp_path / "tokens"
    vocabulary = Vocabulary(["a", "b"])
    for content in ("ab", "abb", "aba"):
        text.write_text(content)
        os.utime(text, ns=(0, len(content) * 1000 + content.count("a")))
        found = TokenFile.encode(read_text_stream(text, BadRows()), vocabulary, path)
        assert found.tokens.tolist() == vocabulary.encode(list(content)).tolist()


@pytest.mark.parametrize(
    "damage", ["cut", "no description", "cut description", "other", "newer", "odd type"]
)
def test_damage_is_noticed_and_mended(damage: str, tmp_path: Path) -> None:
    path, side = tmp_path / "tokens", tmp_path / "tokens.json"
    stream, vocabulary = TextStream([Document.from_text("d", "abba")]), Vocabulary(["a", "b"])
    TokenFile.encode(stream, vocabulary, path)
    header = json.loads(side.read_text())
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "no description":
        side.unlink()
    elif damage == "cut description":
        side.write_text(side.read_text()[:-5])
    elif damage == "other":
        side.write_text("[]")
    elif damage == "newer":
        side.write_text(json.dumps({**header, "format": 2}))
    else:
        side.write_text(json.dumps({**header, "dtype": "int8"}))
    with pytest.raises(DataError, match="tokens"):
        TokenFile.open(path)
    assert TokenFile.encode(stream, vocabulary, path).tokens.tolist() == [1, 2, 2, 1]
    assert TokenFile.open(path).tokens.tolist() == [1, 2, 2, 1]


@pytest.mark.parametrize("which", range(2))
def test_a_full_disk_leaves_nothing_half_done(
    which: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tokens"
    stream, vocabulary = TextStream([Document.from_text("d", "abba")]), Vocabulary(["a", "b"])
    calls = 0

    def full(_: int) -> None:
        nonlocal calls
        calls += 1
        if calls == which + 1:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(DataError, match=r"tokens: the encoded text can't be written .*space"):
            TokenFile.encode(stream, vocabulary, path)
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(DataError, match="wasn't finished"):
        TokenFile.open(path)
    assert TokenFile.encode(stream, vocabulary, path).tokens.tolist() == [1, 2, 2, 1]


# ---- bounded memory

MEASURE = """
import resource, sys
from ostinato.data import *

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

stream = read_text_stream(sys.argv[1], BadRows())
tokenize = {"characters": characters, "pieces": pieces}[sys.argv[3]]
warm = TextStream([Document.from_text("warm", "Warm up.\\n" * 300_000)])
vocabulary = Vocabulary.build(count_tokens(warm, tokenize))
TokenFile.encode(warm, vocabulary, sys.argv[2], tokenize)
before = peak()
vocabulary = Vocabulary.build(count_tokens(stream, tokenize))
found = TokenFile.encode(stream, vocabulary, sys.argv[2], tokenize)
used = peak() - before
steps = sum(batch.steps for batch in StreamBatches(found.tokens, 32, 256).epoch(0))
print(len(found), steps, used, peak() - before)
"""


@pytest.mark.parametrize(
    ("kind", "megabytes", "tokens"), [("characters", 20, 53), ("pieces", 4, 15)]
)
def test_a_large_text_takes_little_memory(
    kind: str, megabytes: int, tokens: int, tmp_path: Path
) -> None:
    """Half of it are lines, and half is one line."""
    units = "It was the best of times, señor.\n".encode(), "no line ends, señor ".encode()
    count = (megabytes << 20) // sum(map(len, units)) // 1000
    text = tmp_path / "large.txt"
    with text.open("wb") as file:
        for unit in units:
            for _ in range(count):
                file.write(unit * 1000)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(text), str(tmp_path / "tokens"), kind],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    length, steps, encoding, streaming = map(float, done.stdout.split())
    assert length == count * 1000 * tokens
    assert length - 32 <= steps <= length - 1
    assert encoding < 12, "MB more than a text of 3 MB takes"
    assert streaming < 12


# ---- batches


def targets(batches: StreamBatches, number: int = 0) -> list[int]:
    return [t for batch in batches.epoch(number) for t in batch.target.flatten().tolist()]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("count", "size", "bptt"), [(2, 1, 1), (11, 2, 3), (100, 7, 5), (100, 7, 50), (101, 10, 10)]
)
def test_windows_follow_one_another(count: int, size: int, bptt: int) -> None:
    tokens = np.arange(count, dtype=np.uint8)
    batches = StreamBatches(tokens, size, bptt)
    found = list(batches.epoch(0))
    each = (count - 1) // size
    assert len(found) == len(batches) == -(-each // bptt)
    x = torch.cat([batch.x for batch in found])
    target = torch.cat([batch.target for batch in found if batch.target is not None])
    assert x.dtype == target.dtype == torch.int64
    assert x.T.tolist() == [list(range(b * each, (b + 1) * each)) for b in range(size)]
    assert torch.equal(target, x + 1)
    assert [batch.fresh for batch in found] == [True] + [False] * (len(found) - 1)
    for batch in found:
        assert batch.x.shape == (int(batch.lengths[0]), size)
        assert batch.steps == batch.terms == batch.all_terms == batch.x.numel()
        assert len(batch.x) == bptt or batch is found[-1]
    assert count - 1 - each * size < size


def test_an_epoch_goes_on_from_any_window() -> None:
    batches = StreamBatches(np.arange(100), 3, 4)
    found, rest = list(batches.epoch(0)), list(batches.epoch(1, 5))
    assert len(rest) == len(found) - 5
    assert all(torch.equal(a.x, b.x) for a, b in zip(found[5:], rest, strict=True))
    assert not any(batch.fresh for batch in rest)


def test_processes_share_the_streams_of_one() -> None:
    tokens = np.arange(1000)
    one = StreamBatches(tokens, 5, 16)
    shares = [StreamBatches(tokens, 5, 16, rank=rank, world=2) for rank in range(2)]
    for alone, *parts in zip(one.epoch(0), *(s.epoch(0) for s in shares), strict=True):
        x = torch.zeros_like(alone.x)
        for part in parts:
            x[:, part.share] = part.x
            assert part.batch_rows == 5
            assert part.all_terms == alone.terms
        assert torch.equal(x, alone.x)
        assert [len(part.rows) for part in parts] == [3, 2]
        assert sum(part.terms for part in parts) == alone.terms


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((np.arange(8), 8, 4), {}, "8 streams need 9 tokens or more, got 8"),
        ((np.arange(0), 1, 4), {}, "1 streams need 2 tokens or more, got 0"),
        ((np.arange(8), 0, 4), {}, "batch_size and bptt of 1 or more, got 0, 4"),
        ((np.arange(8), 1, 0), {}, "got 1, 0"),
        ((np.arange(80), 2, 4), {"world": 3}, "3 processes, but the smallest batch has 2 rows"),
    ],
)
def test_refusals(arguments: Any, options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        StreamBatches(*arguments, **options)


def test_every_token_but_the_first_is_a_target() -> None:
    assert sorted(targets(StreamBatches(np.arange(13), 4, 2))) == list(range(1, 13))


def test_counting_many_different_words_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MOST_COUNTED", 100)
    text = "".join(f"often seldom{i // 2} once{i}\n" for i in range(2000))
    blocks = [text[i : i + 300] for i in range(0, len(text), 300)]
    found = count_tokens(TextStream([Document("many", lambda: iter(blocks))]), words)
    assert len(found) <= 100
    assert found.most_common(1) == [("often", 2000)]


def test_mapped_tokens_are_given_back_and_read_again(tmp_path: Path) -> None:
    document = Document.from_text("a", "abcdefg" * 100_000)
    vocabulary = Vocabulary.build([list("abcdefg")])
    file = TokenFile.encode(TextStream([document]), vocabulary, tmp_path / "t")
    before = file.tokens.tolist()
    resident = mapped_kilobytes(tmp_path / "t")
    streams.release(file.tokens)
    assert mapped_kilobytes(tmp_path / "t") < resident / 10
    assert file.tokens.tolist() == before
    streams.release(np.arange(3))  # not mapped: nothing to give back


def mapped_kilobytes(path: Path) -> int:
    """What of a mapped file is in memory, as Linux says."""
    smaps = Path("/proc/self/smaps")
    if not smaps.exists():
        pytest.skip("this system doesn't say what is resident")
    lines = smaps.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.endswith(str(path)))
    return next(int(line.split()[1]) for line in lines[start:] if line.startswith("Rss"))
