"""``ostinato generate``: text from a language model, as it is made."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ostinato.cli.model import add_model, load
from ostinato.cli.printing import note
from ostinato.cli.usage import at_least
from ostinato.errors import InputError

if TYPE_CHECKING:
    import argparse

SUMMARY = "let a language model go on from a prompt"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_model(parser)
    add = parser.add_argument
    add("--prompt", default="", metavar="TEXT", help="what to go on from")
    add(
        "--length",
        type=at_least(0),
        default=400,
        metavar="N",
        help="characters or words (default: 400)",
    )
    add(
        "--temperature",
        type=float,
        default=0.8,
        metavar="T",
        help="below 1 bolder, above 1 more varied, 0 always the most probable (default: 0.8)",
    )
    add("--top-k", type=int, metavar="K", help="draw from the K most probable symbols only")
    add(
        "--top-p",
        type=float,
        metavar="P",
        help="draw from the fewest symbols that have the probability P together",
    )
    add("--seed", type=int, default=0, metavar="N", help="another seed, another text (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Print the prompt and what follows."""
    from ostinato.tasks.language_model import LanguageModel
    from ostinato.tasks.sampling import Sampling

    sampling = Sampling(temperature=args.temperature, top_k=args.top_k, top_p=args.top_p)
    task, model, _ = load(args)
    if not isinstance(task, LanguageModel):
        raise InputError(
            f"{args.model}: is a model of the task {task.name}; only a language model generates "
            "(ostinato train lm)"
        )
    unknown = task.unknown_in(args.prompt)
    if unknown:
        listed = ", ".join(map(repr, list(unknown)[:10]))
        note(f"ostinato: {unknown.total()} of the prompt's symbols are unknown: {listed}")
    sys.stdout.write(args.prompt)
    for text in task.generate(model, args.prompt, args.length, sampling, seed=args.seed):
        sys.stdout.write(text)
        sys.stdout.flush()
    sys.stdout.write("\n")
    sys.stdout.flush()
    return 0
