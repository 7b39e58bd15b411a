"""``co2``: the carbon dioxide in the air of Mauna Loa, weekly."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ostinato.data.bad_rows import BadRows
from ostinato.data.named.dataset import Dataset
from ostinato.data.named.packages import file_of, folder_of
from ostinato.data.series import read_series_table

if TYPE_CHECKING:
    from ostinato.data.examples import SeriesTable

INSTALL = "pip install 'ostinato[datasets]'"


def load(name: str) -> Dataset[SeriesTable]:
    """Weekly means in ppm from 1958-03-29 to 2001-12-29; the 59 missing ones are NaN.

    How missing values are filled is the forecast task's affair, which never takes a filled one for
    a target. A year is 52 steps.

    Source: C. D. Keeling and T. P. Whorf (2004), Atmospheric CO2 concentrations derived from flask
    air samples at sites in the SIO network, Oak Ridge National Laboratory.
    """
    folder = folder_of("statsmodels", name, INSTALL)
    path = file_of(folder, "datasets/co2/co2.csv", name)
    table = read_series_table(path, "date", ["co2"], BadRows("fail"))
    times = [f"{t[:4]}-{t[4:6]}-{t[6:]}" for t in table.times]
    return Dataset(
        name,
        "forecast",
        "package statsmodels (BSD-3-Clause; data in the public domain): 2,284 weeks, 59 missing",
        replace(table, times=times),
        options={"season": 52, "horizon": 52},
    )
