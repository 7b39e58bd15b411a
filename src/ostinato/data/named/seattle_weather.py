"""``seattle-weather``: four series, daily."""

from __future__ import annotations

import numpy as np

from ostinato.data.bad_rows import BadRows
from ostinato.data.examples import SeriesTable
from ostinato.data.named.dataset import Dataset
from ostinato.data.named.packages import file_of, folder_of
from ostinato.data.rows import read_rows

INSTALL = "pip install vega_datasets"
NAMES = ("precipitation", "temp_max", "temp_min", "wind")


def load(name: str) -> Dataset[SeriesTable]:
    """Precipitation (mm), highest and lowest temperature (°C), wind (m/s), 2012 to 2015.

    Source: National Centers for Environmental Information (NOAA).
    """
    folder = folder_of("vega_datasets", name, INSTALL)
    path = file_of(folder, "_data/seattle-weather.csv", name)
    rows = list(read_rows(path, BadRows("fail")))
    values = np.array([[float(row.values[n]) for n in NAMES] for row in rows], dtype=np.float64)
    return Dataset(
        name,
        "forecast",
        "package vega_datasets (MIT; data in the public domain): 1,461 days, 4 series",
        SeriesTable(
            NAMES,
            [row.values["date"].replace("/", "-") for row in rows],
            values,
            {"": slice(0, len(rows))},
            [row.where for row in rows],
        ),
        options={"season": 1, "horizon": 7},
    )
