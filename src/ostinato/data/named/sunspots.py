"""``sunspots``: the yearly sunspot number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ostinato.data.bad_rows import BadRows
from ostinato.data.named.dataset import Dataset
from ostinato.data.named.packages import file_of, folder_of
from ostinato.data.series import read_series_table

if TYPE_CHECKING:
    from ostinato.data.examples import SeriesTable

INSTALL = "pip install 'ostinato[datasets]'"


def load(name: str) -> Dataset[SeriesTable]:
    """Yearly means from 1700 to 2008. A cycle is about 11 steps, though none is like another.

    Source: National Geophysical Data Center, Solar-Terrestrial Physics.
    """
    folder = folder_of("statsmodels", name, INSTALL)
    path = file_of(folder, "datasets/sunspots/sunspots.csv", name)
    return Dataset(
        name,
        "forecast",
        "package statsmodels (BSD-3-Clause; data in the public domain): 309 years",
        read_series_table(path, "YEAR", ["SUNACTIVITY"], BadRows("fail")),
        options={"season": 11, "horizon": 11},
    )
