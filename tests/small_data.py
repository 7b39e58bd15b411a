"""Small files for the tests of the tasks: made-up reviews, waves and tagged sentences."""

from __future__ import annotations

import csv
import random
from typing import TYPE_CHECKING

from ostinato.tasks.config import TrainConfig

if TYPE_CHECKING:
    from pathlib import Path

FILLER = ("the", "film", "was", "about", "a", "dog", "and", "its", "old", "house", "by", "sea")
GOOD, BAD = ("wonderful", "great", "moving"), ("awful", "dull", "tedious")
NOUNS, VERBS = ("dog", "house", "sea", "film", "rose"), ("sees", "likes", "rose", "film")


def reviews(path: Path, count: int = 200, seed: int = 0) -> Path:
    """A CSV with ``text`` and ``label``; one word in each text tells the label."""
    draw = random.Random(seed)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "label"])
        for i in range(count):
            good = i % 2 == 0
            words = draw.choices(FILLER, k=draw.randint(3, 12))
            words.insert(draw.randrange(len(words) + 1), draw.choice(GOOD if good else BAD))
            writer.writerow([i, " ".join(words), "good" if good else "bad"])
    return path


def waves(path: Path, count: int = 60, seed: int = 0) -> Path:
    """A CSV in long form: series ``id`` that rise or fall in ``a``; ``b`` is noise."""
    draw = random.Random(seed)
    lines = ["id,t,a,b,kind"]
    for i in range(count):
        slope = 1.0 if i % 2 else -1.0
        for t in range(draw.randint(4, 9)):
            a = 100 + slope * t + draw.gauss(0, 0.2)
            lines.append(f"s{i},{t},{a:.4f},{draw.gauss(0, 1):.4f},{'up' if i % 2 else 'down'}")
    path.write_text("\n".join(lines) + "\n")
    return path


def sentences(path: Path, count: int = 150, seed: int = 0) -> Path:
    """CoNLL-style: ``film`` and ``rose`` are nouns after ``the`` and verbs after a noun."""
    draw = random.Random(seed)
    lines = []
    for i in range(count):
        words = ["the", draw.choice(NOUNS), draw.choice(VERBS), "the", draw.choice(NOUNS)]
        tags = ["D", "N", "V", "D", "N"]
        if i % 3 == 0:
            words, tags = [f"no{i}", *words], ["X", *tags]
        lines += [f"{w}\t{t}" for w, t in zip(words, tags, strict=True)] + [""]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def small(path: Path, **given: object) -> TrainConfig:
    """A small model of the classification of ``path``, trained in a second."""
    choices: dict[str, object] = {
        "task": "classify",
        "data": [str(path)],
        "out": str(path.parent / "model"),
        "hidden": 8,
        "embedding": 8,
        "epochs": 4,
        "batch_size": 8,
        "lr": 0.02,
        "dropout": 0.2,
    }
    return TrainConfig(**{**choices, **given})  # type: ignore[arg-type]
