"""``ostinato cells``: the registered cells, with their papers, equations and sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ostinato.cli.printing import count, equations, say
from ostinato.cli.usage import at_least

if TYPE_CHECKING:
    import argparse

    from ostinato.cells.registry import CellEntry

SUMMARY = "list the registered cells: names, papers, equations, states, parameters"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="these cells only")
    parser.add_argument(
        "--input",
        type=at_least(1),
        default=128,
        metavar="I",
        help="input size to count parameters at (default: 128)",
    )
    parser.add_argument(
        "--hidden",
        type=at_least(1),
        default=128,
        metavar="H",
        help="hidden size to count parameters at (default: 128)",
    )


def run(args: argparse.Namespace) -> int:
    """Print the cells."""
    from ostinato.cells import registry

    entries = [registry.entry(name) for name in args.names or registry.names()]
    for number, entry in enumerate(entries):
        if number:
            say()
        say(_description(entry, args.input, args.hidden))
    return 0


def _description(entry: CellEntry, input_size: int, hidden_size: int) -> str:
    cell = entry.cls(input_size, hidden_size)
    sizes = getattr(cell, "state_size", hidden_size)
    states = (sizes,) if isinstance(sizes, int) else tuple(sizes)
    parameters = sum(p.numel() for p in cell.parameters())
    title = entry.name + (f"  (also {', '.join(entry.aliases)})" if entry.aliases else "")
    facts = [
        ("paper", entry.paper),
        ("states", f"{len(states)}, of {' + '.join(map(str, states))} features"),
        ("parameters", f"{count(parameters)} at input {input_size}, hidden {hidden_size}"),
    ]
    for variant in entry.variants:
        if variant:
            facts.append(("variant", ", ".join(f"{k}={v!r}" for k, v in variant.items())))
    lines = [title]
    lines += [f"    {text}" for text in equations(entry.cls.__doc__)]
    lines += [f"  {name:<11} {text}" for name, text in facts]
    return "\n".join(lines)
