"""One of two processes that train together, for ``test_distributed.py``; torchrun starts it.

    torchrun --nproc-per-node 2 two_processes.py FOLDER

Writes what came of it to ``FOLDER/rank-N.json``.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import weakref
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
import torch.distributed as dist
import torch.utils._pytree as pytree
from torch import Tensor

torch.set_num_threads(1)

from ostinato.errors import ModelError  # noqa: E402
from ostinato.train import Callback, Processes, Run, StepInfo, directory  # noqa: E402
from small_runs import KINDS, Losses, digest, train  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable


class InterruptAt(Callback):
    """Ctrl-C on the main process alone."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, run: Run, info: StepInfo) -> None:
        if info.step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


def full_disk(path: Path, data: bytes) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def messages_kept(processes: Processes) -> int:
    """How many of 2,500 messages live on once they have arrived."""
    sent: list[weakref.ref[Tensor]] = []

    def recorded(send: Callable[..., None]) -> Callable[..., None]:
        def record(*arguments: Tensor | list[Tensor] | int) -> None:
            tensors = [t for t in pytree.tree_leaves(arguments) if isinstance(t, Tensor)]
            sent.extend(weakref.ref(t) for t in tensors)
            send(*arguments)

        return record

    kept = 0
    with ExitStack() as stack:
        for name in ("all_reduce", "all_gather", "broadcast"):
            stack.enter_context(patch.object(dist, name, recorded(getattr(dist, name))))
        for _ in range(500):
            processes.barrier()
            assert processes.gather(b"") == [b"", b""]
            processes.from_main(b"x")
            kept += sum(message() is not None for message in sent)
            sent.clear()
    return kept


def main(folder: Path) -> None:
    os.fsync = lambda number: None  # nothing here pulls the plug
    processes = Processes.from_environment("gloo")
    rank, world = processes.rank, processes.world
    result: dict[str, Any] = {"rank": rank, "world": world, "is_main": processes.is_main}
    for kind in KINDS:
        seen = Losses()
        model, history = train(kind, None, rank, world, processes=processes, callbacks=[seen])
        result[kind] = {
            "losses": seen.losses,
            "digest": digest(model, history),
            "epochs": [(e.loss, e.metrics["val_loss"], e.grad_norm) for e in history.epochs],
            "weights": {n: p.tolist() for n, p in model.named_parameters()},
        }
        path = folder / kind
        _, cut = train(
            kind, path, rank, world, processes=processes, callbacks=[InterruptAt(7)], epochs=3
        )
        before = Losses()
        whole = train(kind, path, rank, world, processes=processes, callbacks=[before], resume=True)
        result[kind] |= {
            "stopped": cut.stopped,
            "resumed": before.resumed,
            "digest of resumed": digest(*whole),
        }
    if processes.is_main:
        directory._write = full_disk
    try:
        train("carry", folder / "full", rank, world, processes=processes)
    except ModelError as error:
        result["full disk"] = str(error)
    result["total"] = processes.total([rank + 1, 0.5])
    result["mean"] = processes.mean([rank + 1.0], weight=3.0 - 2 * rank)
    result["gathered"] = [
        d.decode() for d in processes.gather(f"from {'the ' * rank}{rank}".encode())
    ]
    result["kept"] = messages_kept(processes)
    (folder / f"rank-{rank}.json").write_text(json.dumps(result))
    processes.barrier()
    processes.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
