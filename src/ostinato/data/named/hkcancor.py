"""``hkcancor``: conversations in Hong Kong Cantonese with a part of speech for each word."""

from __future__ import annotations

from pathlib import Path

from ostinato.data.examples import TaggedExamples
from ostinato.data.named.dataset import Dataset
from ostinato.data.split import split
from ostinato.errors import InputError

INSTALL = "pip install 'ostinato[datasets]'"
#: The corpus has no part of speech for punctuation marks.
PUNCTUATION = "punct"


def load(name: str) -> Dataset[TaggedExamples]:
    """The utterances, split by their words: 80 % train, 10 % validation, 10 % test.

    Short utterances that are there often (``係 .``) are on one side, so that the test part has none
    that was learnt by heart. Punctuation marks, which have an empty tag in the corpus, get the tag
    ``punct``: 95 tags.

    Source: K. K. Luke and M. L. Y. Wong (2015), The Hong Kong Cantonese Corpus: design and uses,
    Journal of Chinese Linguistics Monograph Series 25.
    """
    try:
        import pycantonese
    except ImportError:
        raise InputError(
            f"the data set {name!r} comes with the package 'pycantonese', which isn't installed: "
            f"{INSTALL}"
        ) from None
    corpus = pycantonese.hkcancor()
    tokens, tags, where = [], [], []
    for path, utterances in zip(corpus.file_paths, corpus.utterances(by_file=True), strict=True):
        for number, utterance in enumerate(utterances, 1):
            tokens.append([token.word for token in utterance.tokens])
            tags.append([token.pos or PUNCTUATION for token in utterance.tokens])
            where.append(f"{Path(path).name}:utterance {number}")
    everything = TaggedExamples(tokens, tags, where)
    parts = split(everything.keys())
    return Dataset(
        name,
        "tag",
        "package pycantonese (MIT; HKCanCor CC BY): 16,162 utterances, 153,656 words, 95 tags",
        everything.subset(parts["train"]),
        everything.subset(parts["validation"]),
        everything.subset(parts["test"]),
    )
