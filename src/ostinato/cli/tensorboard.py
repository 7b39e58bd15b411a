"""``--log tensorboard``: a callback that writes what TensorBoard reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ostinato.errors import InputError
from ostinato.train import Callback

if TYPE_CHECKING:
    from ostinato.train import EpochRecord, History, Run, StepInfo

#: One step in so many is written.
_EVERY = 10


class TensorBoard(Callback):
    """Writes losses, gradients, rates and metrics to ``DIRECTORY/tensorboard``.

    Raises:
        InputError: tensorboard isn't installed.
    """

    def __init__(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise InputError(
                "--log tensorboard needs tensorboard, which isn't installed: pip install "
                "'ostinato[tensorboard]'"
            ) from error
        self._make: Any = SummaryWriter
        self._writer: Any = None

    def on_start(self, run: Run) -> None:
        """See the base class."""
        assert run.directory is not None
        # What a run that was killed wrote after its last checkpoint comes once more.
        self._writer = self._make(str(run.directory / "tensorboard"), purge_step=run.step + 1)

    def on_step(self, run: Run, info: StepInfo) -> None:
        """See the base class."""
        if info.step % _EVERY:
            return
        for name, value in (
            ("train/loss", info.loss),
            ("train/gradient norm", info.grad_norm),
            ("train/clipped", float(info.clipped)),
            ("train/learning rate", info.lr),
            ("train/time steps a second", info.steps / max(info.seconds, 1e-9)),
        ):
            self._writer.add_scalar(name, value, info.step)

    def on_epoch(self, run: Run, record: EpochRecord) -> None:
        """See the base class."""
        step = record.epoch * run.batches
        self._writer.add_scalar("epoch/loss", record.loss, step)
        for name, value in record.metrics.items():
            self._writer.add_scalar(f"epoch/{name}", value, step)
        self._writer.flush()

    def on_end(self, run: Run, history: History) -> None:
        """See the base class."""
        self._writer.close()
