"""Labelled series from the UCR and UEA archives, each with the archive's own training and test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ostinato.data.examples import SeriesExamples
from ostinato.data.named.dataset import Dataset
from ostinato.data.named.packages import file_of, folder_of
from ostinato.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

INSTALL = "pip install 'ostinato[datasets]'"
#: Name -> the archive's name, and what it is.
SETS = {
    "japanese-vowels": (
        "JapaneseVowels",
        "speakers by two vowels: 270 + 370 series, 12 channels, 7 to 29 steps, 9 classes",
    ),
    "pickup-gesture": (
        "PickupGestureWiimoteZ",
        "gestures by acceleration: 50 + 50 series, 1 channel, 29 to 361 steps, 10 classes",
    ),
    "basic-motions": (
        "BasicMotions",
        "activities by a watch: 40 + 40 series, 6 channels, 100 steps, 4 classes",
    ),
    "gun-point": (
        "GunPoint",
        "gun or finger by a hand's path: 50 + 150 series, 1 channel, 150 steps, 2 classes",
    ),
    "arrow-head": (
        "ArrowHead",
        "types by an outline: 36 + 175 series, 1 channel, 251 steps, 3 classes",
    ),
    "osu-leaf": (
        "OSULeaf",
        "species by an outline: 200 + 242 series, 1 channel, 427 steps, 6 classes",
    ),
    "italy-power-demand": (
        "ItalyPowerDemand",
        "summer or winter by a day's demand: 67 + 1,029 series, 1 channel, 24 steps, 2 classes",
    ),
}


def load(name: str) -> Dataset[SeriesExamples]:
    """The series, with the archive's training and test part.

    Read from the files in the package aeon, which isn't imported: that alone takes seconds.

    Source: H. A. Dau et al. (2019), The UCR time series archive, IEEE/CAA Journal of Automatica
    Sinica 6(6); A. Bagnall et al. (2018), The UEA multivariate time series classification archive,
    arXiv:1811.00075; Japanese Vowels: M. Kudo et al. (1999), Multidimensional curve classification
    using passing-through regions, Pattern Recognition Letters 20.
    """
    archive, size = SETS[name]
    folder = folder_of("aeon", name, INSTALL)
    train, test = (
        read_ts(file_of(folder, f"datasets/data/{archive}/{archive}_{part}.ts", name))
        for part in ("TRAIN", "TEST")
    )
    source = f"package aeon (BSD-3-Clause; UCR/UEA archive, no licence stated): {size}"
    return Dataset(name, "classify", source, train, None, test)


def read_ts(path: Path) -> SeriesExamples:
    """A file in the archives' ``.ts`` format.

    Lines that begin with ``#`` are comments, with ``@`` the header, which ends with ``@data``. Then
    a line is a series: channels separated by ``:``, steps by ``,``, the label last.

    Raises:
        DataError: a line has no label, another number of channels than the first, channels of
            different lengths, or something that isn't a finite number.
    """
    series, labels, where = [], [], []
    in_data = False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        line = line.strip()
        if not in_data:
            in_data = line.lower() == "@data"
            continue
        if not line:
            continue
        *channels, label = line.split(":")
        place = f"{path.name}:{number}"
        series.append(_numbers(channels, place))
        if series[-1].shape[1] != series[0].shape[1]:
            wanted, got = series[0].shape[1], series[-1].shape[1]
            raise DataError(f"{place}: expected {wanted} channels and a label, got {got}")
        labels.append(label.strip())
        where.append(place)
    if not series:
        raise DataError(f"{path}: there are no series after a line @data")
    count = series[0].shape[1]
    names = tuple(f"channel_{c + 1}" for c in range(count))
    return SeriesExamples(series, labels, names, where)


def _numbers(channels: list[str], place: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    try:
        steps = np.array([channel.split(",") for channel in channels], dtype=np.float32).T
    except ValueError as error:
        raise DataError(f"{place}: channels of numbers, equally long, are expected: {error}") from (
            None
        )
    if steps.ndim != 2 or not np.isfinite(steps).all():
        raise DataError(f"{place}: a series of finite numbers and then a label are expected")
    return np.ascontiguousarray(steps)
