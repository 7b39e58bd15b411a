"""Several processes that train one model, and what their messages cost."""

from __future__ import annotations

import os
import time
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ostinato.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence


# Seconds; it takes microseconds. A tool that records messages, and so keeps them, mustn't stop the
# training.
_PATIENCE = 1.0


@dataclass(frozen=True)
class Processes:
    """Which process of how many this is, and how they talk.

    ``Processes()`` is one process alone, for which every method is trivial.

    Attributes:
        rank: number of this process, from 0; rank 0 is the main one and alone writes files.
        world: number of processes.
        device: where this process's model and messages live.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def from_environment(cls, backend: str | None = None) -> Processes:
        """What ``torchrun`` says in ``RANK``, ``WORLD_SIZE`` and ``LOCAL_RANK``; joins the group.

        Args:
            backend: ``"gloo"`` or ``"nccl"``; ``None``: nccl if each local process has a GPU of its
                own, else gloo on the CPU.

        Returns:
            One process alone where the variables aren't set.

        Raises:
            InputError: only one of the variables is set, or they aren't numbers that fit.
        """
        rank, world = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
        if rank is None and world is None:
            return cls()
        if rank is None or world is None:
            raise InputError(
                f"RANK={rank}, WORLD_SIZE={world}: both or neither must be set; torchrun sets them"
            )
        try:
            number, count = int(rank), int(world)
            local = int(os.environ.get("LOCAL_RANK", "0"))
            beside = int(os.environ.get("LOCAL_WORLD_SIZE", world))
        except ValueError as error:
            raise InputError(f"RANK={rank}, WORLD_SIZE={world}: not numbers: {error}") from None
        if not 0 <= number < count:
            raise InputError(f"RANK={rank} must be at least 0 and below WORLD_SIZE={world}")
        if count == 1:
            return cls()
        if backend is None:
            backend = "nccl" if torch.cuda.device_count() >= beside else "gloo"
        device = torch.device("cuda", local) if backend == "nccl" else torch.device("cpu")
        if device.type == "cuda":
            torch.cuda.set_device(device)
        if not dist.is_initialized():
            dist.init_process_group(backend, rank=number, world_size=count)
        return cls(number, count, device)

    @property
    def is_main(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def total(self, values: Sequence[float]) -> list[float]:
        """Each value summed over the processes, in float64; all get the same."""
        if self.world == 1:
            return [float(v) for v in values]
        messages = [torch.tensor(list(values), dtype=torch.float64, device=self.device)]
        dist.all_reduce(messages[0])
        sums = [float(v) for v in messages[0].tolist()]
        _let_go(messages)
        return sums

    def mean(self, values: Sequence[float], weight: float = 1.0) -> list[float]:
        """Each value's mean over the processes, weighted by each process's ``weight``."""
        *sums, weights = self.total([*(v * weight if weight else 0.0 for v in values), weight])
        return [s / weights if weights else float("nan") for s in sums]

    def gather(self, data: bytes) -> list[bytes]:
        """Each process's ``data``, in order of rank, on all processes."""
        if self.world == 1:
            return [data]
        sizes = [
            int(n)
            for n in self.total([len(data) if r == self.rank else 0 for r in range(self.world)])
        ]
        padded = bytearray(data.ljust(max(1, *sizes), b"\0"))
        messages = [torch.frombuffer(padded, dtype=torch.uint8).to(self.device)]
        messages += [torch.empty_like(messages[0]) for _ in sizes]
        dist.all_gather(messages[1:], messages[0])
        gathered = [
            message[:size].cpu().numpy().tobytes()
            for message, size in zip(messages[1:], sizes, strict=True)
        ]
        _let_go(messages)
        return gathered

    def from_main(self, data: bytes) -> bytes:
        """The main process's ``data``."""
        if self.world == 1:
            return data
        (size,) = self.total([len(data) if self.is_main else 0])
        if not size:
            return b""
        if self.is_main:
            messages = [torch.frombuffer(bytearray(data), dtype=torch.uint8).to(self.device)]
        else:
            messages = [torch.empty(int(size), dtype=torch.uint8, device=self.device)]
        dist.broadcast(messages[0], 0)
        received = messages[0].cpu().numpy().tobytes()
        _let_go(messages)
        return received

    def text_from_main(self, text: str) -> str:
        """The main process's ``text``."""
        return self.from_main(text.encode()).decode()

    def barrier(self) -> None:
        """Wait until all processes are here."""
        self.total([0.0])

    def close(self) -> None:
        """Leave the group, which each process does once at its end."""
        if self.world > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def wrap(self, model: nn.Module, *, some_unused: bool = False) -> nn.Module:
        """``model`` for training: with several processes, in ``DistributedDataParallel``.

        Args:
            model: where ``device`` is.
            some_unused: whether a batch may leave parameters without a gradient, as the heads of
                other tasks; it costs a walk through the graph a step.
        """
        if self.world == 1:
            return model
        ids = [self.device] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(
            model, device_ids=ids, find_unused_parameters=some_unused, gradient_as_bucket_view=True
        )

    def share_of_loss(self, loss: Tensor, terms: int, all_terms: int) -> Tensor:
        """What to call ``backward`` on so that the processes' mean gradient is the global batch's.

        Args:
            loss: mean over this process's terms; where there are none, anything, also NaN.
            terms: of this process.
            all_terms: of the global batch.
        """
        if terms == 0:
            return loss.nan_to_num() * 0.0
        if self.world == 1:
            return loss
        return loss * (terms * self.world / all_terms)


def _let_go(messages: list[Tensor]) -> None:
    """Empties ``messages``, and waits until gloo's threads no longer hold what was in it.

    They may hold a message for a moment after it has arrived. One that outlives the caller's
    variables is dropped under the interpreter's lock, and the thread that waits for the lock while
    the interpreter shuts down aborts the process: a script that ended right after its last message
    failed now and then.
    """
    held = [weakref.ref(message) for message in messages if message.device.type == "cpu"]
    messages.clear()
    patience = time.monotonic() + _PATIENCE
    while any(message() is not None for message in held) and time.monotonic() < patience:
        time.sleep(0)


def communication_seconds(
    size: int, processes: int, bandwidth: float, latency: float = 50e-6
) -> float:
    """Time that one ring all-reduce takes, which is what a step adds on several machines.

    In each of ``2 (N - 1)`` rounds a process sends ``size / N`` bytes to its neighbour::

        seconds = 2 (N - 1) (latency + size / (N bandwidth))

    Each process sends ``2 (N - 1) / N`` times the message whatever N is, below twice its size: the
    first term, the latency, is what grows with N.

    Args:
        size: bytes of the message: 4 for each float32 parameter.
        processes: N, at least 1, one on each machine.
        bandwidth: bytes a second between neighbours; 1 Gbit/s is 125e6.
        latency: seconds until a message's first byte arrives; 50 us is usual for TCP in one rack.

    Source: P. Patarasuk and X. Yuan (2009), Bandwidth optimal all-reduce algorithms for clusters of
    workstations, Journal of Parallel and Distributed Computing 69(2).

    Raises:
        InputError: a value outside its range.

    Example:
        >>> round(communication_seconds(5_200_000, 8, 125e6) * 1e3, 1)  # ms
        73.5
    """
    if size < 0 or processes < 1 or not bandwidth > 0 or not latency >= 0:
        raise InputError(
            "size >= 0, processes >= 1, bandwidth > 0 and latency >= 0 are needed, got "
            f"{size!r}, {processes!r}, {bandwidth!r}, {latency!r}"
        )
    return 2 * (processes - 1) * (latency + size / (processes * bandwidth))
