"""``ostinato train``: a model from data, and what is to be seen of it on the way."""

from __future__ import annotations

import argparse
import os
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ostinato.cli.printing import duration, note, say
from ostinato.cli.usage import UsageError

if TYPE_CHECKING:
    from ostinato.tasks.config import TrainConfig
    from ostinato.tasks.run import TrainResult
    from ostinato.train import Callback, Processes

SUMMARY = "train a model: classify, tag, lm or forecast"

#: Task -> what it learns.
TASKS = {
    "classify": "text or numeric series -> label (default data: IMDB reviews)",
    "tag": "a label per step (default data: HKCanCor)",
    "lm": "the next character or word; then `ostinato generate` (default data: Shakespeare)",
    "forecast": "next values of one or several series (default data: weekly CO2)",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add a parser for each task, with the options that it knows."""
    from ostinato.cli.options import HelpWithDefaults, add_options

    tasks = parser.add_subparsers(dest="task", metavar="TASK", required=True)
    for task in TASKS:
        one = tasks.add_parser(
            task, help=TASKS[task], description=TASKS[task], add_help=False, allow_abbrev=False
        )
        one.add_argument("-h", "--help", action=HelpWithDefaults, task=task)
        add_options(one, task)
        more = one.add_argument_group("this run")
        more.add_argument(
            "--config", metavar="FILE", help="options from a .toml or .json file, or a config.json"
        )
        more.add_argument(
            "--resume", action="store_true", help="go on from the last checkpoint in --out"
        )
        more.add_argument(
            "--overwrite", action="store_true", help="replace the model that is in --out"
        )
        more.add_argument(
            "--traceback", action="store_true", help="show where in the code an error came up"
        )


def run(args: argparse.Namespace) -> int:
    """Train, and print the summary; 130 if it was interrupted."""
    begin = time.perf_counter()
    from ostinato.cli.options import config_from

    config = config_from(args)
    from ostinato.train import Processes

    if args.resume and args.config is None:
        config = _unfinished(config, args) or config
    processes = Processes.from_environment()
    status = _train(args, config, processes, begin)
    processes.close()
    return status


def _train(
    args: argparse.Namespace, config: TrainConfig, processes: Processes, begin: float
) -> int:
    from ostinato.cli.progress import progress_for
    from ostinato.tasks import run as tasks_run

    progress = progress_for("tokens" if config.task in ("lm", "tag") else "time steps")
    callbacks: list[Callback] = [progress]
    if config.log == "tensorboard":
        from ostinato.cli.tensorboard import TensorBoard

        callbacks.append(TensorBoard())
    if not processes.is_main:
        tasks_run.train(config, resume=args.resume, overwrite=args.overwrite, processes=processes)
        return 0
    with progress:
        result = tasks_run.train(
            config,
            callbacks=callbacks,
            resume=args.resume,
            overwrite=args.overwrite,
            processes=processes,
            tell=progress.line,
        )
    if result.history.stopped == "interrupted":
        note(_how_to_go_on(args, progress.last_step, progress.total_steps))
        return 130
    say(_summary(result, config.task, time.perf_counter() - begin))
    return 0


def with_task(arguments: list[str]) -> list[str]:
    """``train --config FILE`` without a task means the file's: put it where argparse looks for it.

    Raises:
        InputError: the file can't be read.
        UsageError: it names no task.
    """
    if arguments[:1] != ["train"] or not arguments[1:] or not arguments[1].startswith("-"):
        return arguments
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config")
    found = finder.parse_known_args(arguments[1:])[0].config
    if found is None:
        return arguments
    from ostinato.tasks.config import read_config_file

    task = read_config_file(Path(found)).get("task")
    if task not in TASKS:
        raise UsageError(f"{found}: has no task; name one: ostinato train {next(iter(TASKS))} ...")
    return ["train", str(task), *arguments[1:]]


def _unfinished(config: TrainConfig, args: argparse.Namespace) -> TrainConfig | None:
    """The configuration of the training that is to be resumed, with this command's options."""
    from ostinato.cli.options import config_from
    from ostinato.tasks.run import SETTINGS, default_directory

    directory = Path(config.out) if config.out is not None else default_directory(config)
    saved = directory / SETTINGS
    if not saved.exists():
        return None
    return config_from(argparse.Namespace(**{**vars(args), "config": str(saved)}))


def _how_to_go_on(args: argparse.Namespace, step: int, steps: int) -> str:
    words = [word for word in args.command_line if word not in ("--resume", "--overwrite")]
    start = "ostinato" if "WORLD_SIZE" not in os.environ else "torchrun ... -m ostinato"
    return (
        f"ostinato: stopped after step {step:,} of {steps:,}; everything is saved. Go on with\n"
        f"  {start} {shlex.join([*words, '--resume'])}"
    )


def _summary(result: TrainResult, task: str, seconds: float) -> str:
    from ostinato.cli.report import ending_text, evaluation_text

    next_step = "generate" if task == "lm" else "predict"
    lines = ["", f"{ending_text(result.history)}; {duration(seconds)} in all"]
    if result.evaluation is not None:
        lines += ["", "held out: " + evaluation_text(result.evaluation)]
    lines += [
        "",
        f"the model is in {result.directory}; use it: ostinato {next_step} "
        f"{shlex.quote(str(result.directory))}",
    ]
    return "\n".join(lines)
