"""Which prediction is of which row, and what DATA may be."""

from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from command_line import Models, finish, start
from ostinato.cli.main import main
from ostinato.cli.prediction_rows import Origins, RecordedBadRows, sentence_rows
from ostinato.data import Row

if TYPE_CHECKING:
    from pathlib import Path


def rows_of(text: str) -> list[dict[str, Any]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_predictions_stand_beside_their_rows() -> None:
    bad = RecordedBadRows("skip")
    origins = Origins(["id"], bad, with_place=True)
    rows = [Row({"id": n, "text": "x"}, f"f:{n}") for n in range(6)]

    def predict(some: Any) -> Any:
        for row in list(some):
            if row.values["id"] in (0, 2, 3, 5):
                bad.reject(row.where, "no")
            else:
                yield {"label": f"of {row.values['id']}"}

    found = list(origins.beside(predict(origins.noted(rows))))
    assert found == [
        {"row": "f:1", "id": 1, "label": "of 1"},
        {"row": "f:4", "id": 4, "label": "of 4"},
    ]


@pytest.mark.usefixtures("here")
def test_kept_columns_and_options_between_arguments(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "new.csv").write_text("id,body\na,dull film\nb,\nc,lovely cast\n")
    words = ["predict", "classify", "--keep", "id", "--bad-rows", "skip", "new.csv"]
    assert main(words) == 0
    captured = capsys.readouterr()
    found = rows_of(captured.out)
    assert [(row["row"], row["id"]) for row in found] == [("new.csv:2", "a"), ("new.csv:4", "c")]
    assert "'body' is empty (new.csv:3)" in captured.err
    assert all(len(row["probability"]) <= 9 for row in found)  # float32's digits, not float64's
    assert main(["predict", "classify", "new.csv", "--keep", "nmae"]) == 1
    assert "new.csv:2: there is no column 'nmae' to keep" in capsys.readouterr().err


@pytest.mark.usefixtures("here")
def test_what_was_trained_on_can_be_predicted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "tag", "tags.conll", "--as", "jsonl"]) == 0
    sentences = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(sentences) == 80
    assert all(len(one["tokens"]) == len(one["tags"]) for one in sentences)
    assert main(["predict", "lm", "text.txt"]) == 0
    assert len(rows_of(capsys.readouterr().out)) == 300


def test_tokens_of_conll_files(tmp_path: Path) -> None:
    plain, universal = tmp_path / "a.txt", tmp_path / "a.conllu"
    plain.write_bytes(b"-DOCSTART- X\n\nthe DET\ncat NOUN\n\n\ncaf\xe9 X\nsat\n")
    bad = RecordedBadRows("skip")
    rows = list(sentence_rows(str(plain), bad))
    assert [(row.values["tokens"], row.where) for row in rows] == [
        (["the", "cat"], f"{plain}:3"),
        (["sat"], f"{plain}:8"),
    ]
    assert bad.places == {f"{plain}:7"}
    universal.write_text("# text\n1-2\tdel\n1\tde\tX\n2\tel\tY\n1.1\te\n")
    assert [row.values["tokens"] for row in sentence_rows(str(universal), bad)] == [["de", "el"]]


def test_ctrl_c_while_waiting_for_a_line(models: Models) -> None:
    process = start("predict", "classify", "-", cwd=models.folder, stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("body\nlovely film\n")
    process.stdin.flush()
    assert process.stdout.readline().startswith("label")
    process.send_signal(signal.SIGINT)
    process.wait(60)  # its standard input is still open
    done = finish(process)
    assert done.code == 130
    assert done.err.strip() == "ostinato: interrupted"
