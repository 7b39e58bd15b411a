"""The options of a forecast that the series themselves decide: season and window."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ostinato.errors import InputError
from ostinato.tasks.season import find_season
from ostinato.tasks.windows import Windows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ostinato.tasks.config import TrainConfig
    from ostinato.tasks.rolling import Run

#: Seasons in a window that nobody chose.
SEASONS = 3
#: Rows of a window that nobody chose where there is no season, at least.
SHORTEST = 24


def settled(config: TrainConfig, defaults: Mapping[str, Any], runs: Sequence[Run]) -> TrainConfig:
    """The configuration with the options filled in, those of 0 too.

    Args:
        config: what was given.
        defaults: the values of what wasn't; a season or window of 0 is found from the runs.
        runs: the data.

    Raises:
        InputError: the window is shorter than the season.
    """
    config = config.settle({name: value for name, value in defaults.items() if name != "season"})
    if not config.season:
        season = defaults.get("season") or find_season(runs)
        config = config.replace(season=season)
    if not config.window:
        horizon = config.horizon
        wanted = SEASONS * config.season if config.season > 1 else max(2 * horizon, SHORTEST)
        # Half of the training part is for the targets, where there is little.
        longest = max(run.cuts()[0] for run in runs)
        config = config.replace(window=min(wanted, max(longest // 2, config.season, 1)))
    if config.window < config.season:
        raise InputError(
            f"the window of {config.window} steps is shorter than the season of {config.season}, "
            "whose values the seasonal baseline repeats; give a longer --window or a shorter "
            "--season"
        )
    return config


def check_parts(source: str, runs: Sequence[Run], config: TrainConfig) -> None:
    """Refuse data in which a part has no window.

    Raises:
        InputError: says which part, and how long the longest run is.
    """
    for part in ("train", "validation", "test"):
        if not len(Windows.of(runs, part, config.window, config.horizon)):
            longest = max(map(len, runs))
            raise InputError(
                f"{source}: the longest run has {longest} rows, of which the {part} part has no "
                f"window of {config.window} past and {config.horizon} next values; give a smaller "
                "--horizon or --window, or more data"
            )
