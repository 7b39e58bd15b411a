"""Readers of labelled texts, tagged sentences and plain text: what they read, and its places."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import pytest

from ostinato.data import (
    BadRows,
    Document,
    TaggedExamples,
    TextExamples,
    TextStream,
    read_tagged,
    read_text_examples,
    read_text_stream,
)
from ostinato.data import text as text_module
from ostinato.errors import DataError, InputError

if TYPE_CHECKING:
    from pathlib import Path


# ---- labelled texts


def test_texts_of_several_files(tmp_path: Path) -> None:
    first, second = tmp_path / "a.csv", tmp_path / "b.jsonl"
    first.write_text("text,label,n\n good ,1 ,x\nbad,0,y\n")
    second.write_text('{"label": 1, "text": "fine"}\n')
    data = read_text_examples([first, second], None, None, BadRows())
    assert data == TextExamples(
        [" good ", "bad", "fine"], ["1", "0", "1"], [f"{first}:2", f"{first}:3", f"{second}:1"]
    )
    assert len(data) == 3
    assert data.keys() == data.texts
    some = data.subset([2, 0])
    assert some == TextExamples(["fine", " good "], ["1", "1"], [f"{second}:1", f"{first}:2"])


def test_columns_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label,title,stars\na,b,c,d\n")
    data = read_text_examples(path, "title", "stars", BadRows())
    assert (data.texts, data.labels) == (["c"], ["d"])
    with pytest.raises(DataError, match="no column 'star'; its columns: 'text', 'label', 'title'"):
        read_text_examples(path, "title", "star", BadRows())


@pytest.mark.parametrize(
    ("value", "label"),
    [(1, "1"), (1.0, "1"), ("1", "1"), (0.5, "0.5"), (True, "true"), (" pos ", "pos"), (0, "0")],
)
def test_labels_of_json(value: Any, label: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "a", "label": value}))
    assert read_text_examples(path, None, None, BadRows()).labels == [label]


def test_no_files() -> None:
    with pytest.raises(InputError, match="expected one or more files, got none"):
        read_text_examples([], None, None, BadRows())


def test_examples_are_equally_many() -> None:
    with pytest.raises(InputError, match="got 1 texts, 2 labels, 1 where"):
        TextExamples(["a"], ["1", "2"], ["a:1"])
    with pytest.raises(InputError, match="a:1: 2 tokens, but 1 tags"):
        TaggedExamples([["a", "b"]], [["X"]], ["a:1"])


# ---- tagged sentences

CONLLU = """# sent_id = 1
# text = vámonos al mar
1-2\tvámonos\t_\t_\t_
1\tvamos\tir\tVERB\t_
2\tnos\tnosotros\tPRON\t_
3\tmar\tmar\tNOUN\t_
3.1\tazul\tazul\tADJ\t_

1\t#\t#\tSYM\t_
"""


def sentences(data: TaggedExamples) -> list[list[tuple[str, str]]]:
    return [
        list(zip(tokens, tags, strict=True))
        for tokens, tags in zip(data.tokens, data.tags, strict=True)
    ]


@pytest.mark.parametrize(
    ("name", "content", "columns", "wanted", "lines"),
    [
        (
            "a.conll",
            "-DOCSTART- -X- O\n\nEU NNP B-ORG\nrejects VBZ O\n\n\n# SYM O\n",
            {},
            [[("EU", "B-ORG"), ("rejects", "O")], [("#", "O")]],
            [3, 7],
        ),
        (
            "a.txt",
            "EU NNP B-ORG\r\nrejects VBZ O\r\n\r\n",
            {"tag": "1"},
            [[("EU", "NNP"), ("rejects", "VBZ")]],
            [1],
        ),
        (
            "a.tsv2",
            "New York\tLOC\n1 000\tNUM\n",
            {},
            [[("New York", "LOC"), ("1 000", "NUM")]],
            [1],
        ),
        (
            "a.conllu",
            CONLLU,
            {},
            [[("vamos", "VERB"), ("nos", "PRON"), ("mar", "NOUN")], [("#", "SYM")]],
            [4, 9],
        ),
        ("a.conllu", "1\tmar\tmarino\tNOUN\n", {"token": 2}, [[("marino", "NOUN")]], [1]),
        ("a.jsonl", '{"words": ["a", 1], "ner_tags": [0, 3]}', {}, [[("a", "0"), ("1", "3")]], [1]),
        (
            "a.jsonl",
            '{"w": ["a"], "t": ["X"]}',
            {"token": "w", "tag": "t"},
            [[("a", "X")]],
            [1],
        ),
    ],
)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
def test_tagged(
    name: str,
    content: str,
    columns: Any,
    wanted: Any,
    lines: list[int],
    packed: bool,
    tmp_path: Path,
) -> None:
    path = tmp_path / (name + ".gz" * packed)
    raw = content.encode()
    path.write_bytes(gzip.compress(raw) if packed else raw)
    data = read_tagged(path, BadRows(), **columns)
    assert sentences(data) == wanted
    assert data.where == [f"{path}:{line}" for line in lines]


def test_tagged_subset_and_keys() -> None:
    data = TaggedExamples([["a", "b"], ["c"]], [["X", "Y"], ["Z"]], ["a:1", "a:4"])
    assert data.keys() == ["a b", "c"]
    assert data.subset([1]) == TaggedExamples([["c"]], [["Z"]], ["a:4"])


def test_tagged_columns_that_are_not_there(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": ["x"], "tags": ["X"]}')
    with pytest.raises(DataError, match="there is no column 'tokens'; its columns: 'a', 'tags'"):
        read_tagged(path, BadRows())
    with pytest.raises(DataError, match="there is no column 'b'"):
        read_tagged(path, BadRows(), token="b")
    plain = tmp_path / "a.conll"
    plain.write_text("a X\n")
    with pytest.raises(DataError, match="columns of CoNLL-style files are numbers from 0, got 'a'"):
        read_tagged(plain, BadRows(), token="a")
    with pytest.raises(DataError, match=r"a\.conll:1: .*: expected 4 columns or more"):
        read_tagged(plain, BadRows(), tag=3)


# ---- plain text


def read(stream: TextStream) -> list[str]:
    return ["".join(document.open()) for document in stream.documents]


@pytest.mark.parametrize("block", [1, 2, 3, 5, 8, 1000])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize(
    "content",
    [
        "",
        "a",
        "\ufeffone\ntwo",
        "one\r\ntwo\r\n\r\nthree",
        "漢字 é 😀 no line ends 漢字",
        "a\rb\n\n\nc\r",
    ],
)
def test_text_in_blocks_of_any_size(
    content: str, block: int, packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_module, "BLOCK", max(block, 3 if content[:1] == "\ufeff" else 1))
    path = tmp_path / ("a.txt" + ".gz" * packed)
    raw = content.encode()
    path.write_bytes(gzip.compress(raw) if packed else raw)
    [document] = read_text_stream(path, BadRows()).documents
    wanted = content.removeprefix("\ufeff").replace("\r\n", "\n")
    blocks = list(document.open())
    assert "".join(blocks) == "".join(document.open()) == wanted
    assert all(blocks)


@pytest.mark.parametrize("block", [1, 2, 5, 100])
def test_bad_bytes_are_in_the_same_line_for_any_block(
    block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_module, "BLOCK", block)
    path = tmp_path / "a.txt"
    path.write_bytes("é one\n\ntwo ".encode() + b"\xe9\nthree\n")
    bad = BadRows("skip")
    [found] = read(read_text_stream(path, bad))
    assert bad.examples == [f"{path}:3: the line isn't UTF-8"]
    assert found.startswith("é one\n\n")
    assert found.endswith("three\n")


def test_folders_and_several_files(tmp_path: Path) -> None:
    folder = tmp_path / "plays"
    folder.mkdir()
    for name in ("b.txt", "a.TXT", "notes.md"):
        (folder / name).write_text(name)
    (tmp_path / "c.log").write_text("c")
    table = tmp_path / "t.jsonl"
    table.write_text('{"text": "x"}\n{"text": "y\\nz"}\n')
    stream = read_text_stream([folder, tmp_path / "c.log", table], BadRows())
    assert read(stream) == ["a.TXT", "b.txt", "c", "x\ny\nz\n"]
    assert [document.name for document in stream.subset([1, 3]).documents] == [
        str(folder / "b.txt"),
        str(table),
    ]
    assert len(stream) == 4
    assert len({document.fingerprint for document in stream.documents}) == 4
    [as_text] = read(read_text_stream(table, BadRows(), format="text"))
    assert as_text == table.read_text()


def test_texts_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.txt: there is no such file"):
        read_text_stream(tmp_path / "a.txt", BadRows())
    with pytest.raises(DataError, match=r"the folder has no \.txt file"):
        read_text_stream(tmp_path, BadRows())
    table = tmp_path / "a.csv"
    table.write_text("a,b\nx,y\n")
    with pytest.raises(DataError, match="which column is the text"):
        read_text_stream(table, BadRows())
    cut = tmp_path / "a.txt.gz"
    cut.write_bytes(gzip.compress(b"one\ntwo\n" * 1000)[:-12])
    with pytest.raises(DataError, match=r"a\.txt\.gz:1: the gzipped file is damaged"):
        read(read_text_stream(cut, BadRows("skip")))


def test_a_tables_long_texts_come_in_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_module, "BLOCK", 4)
    path = tmp_path / "a.csv"
    path.write_text("text\nabcdefghij\nk\nl\n")
    [document] = read_text_stream(path, BadRows(), text="text").documents
    assert list(document.open()) == ["abcd", "efgh", "ij\nk\n", "l\n"]


def test_a_text_in_memory() -> None:
    text = "é" * ((1 << 20) + 5)
    document = Document.from_text("a", text)
    assert [len(block) for block in document.open()] == [1 << 20, 5]
    assert document.fingerprint == Document.from_text("b", text).fingerprint
    assert document.fingerprint != Document.from_text("a", text + "!").fingerprint
    assert list(Document.from_text("a", "").open()) == []
