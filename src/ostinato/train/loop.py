"""The loop: steps, epochs, and what happens between them."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from ostinato.errors import DivergedError, ModelError
from ostinato.train.clipping import measure_and_clip
from ostinato.train.directory import make_directory, write_atomically
from ostinato.train.history import EpochRecord, History, StepInfo
from ostinato.train.interruption import Interruption
from ostinato.train.packing import pack, unpack
from ostinato.train.progress import Progress, history_from
from ostinato.train.randomness import random_state, set_random_state

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor, nn

    from ostinato.train.best import Best
    from ostinato.train.callbacks import Callback, Run
    from ostinato.train.checkpoints import Checkpoints
    from ostinato.train.parts import Dealer
    from ostinato.train.schedules import Rates


@dataclass
class Loop:
    """One run, from its start or a checkpoint to its end.

    Attributes:
        run: the model, the optimiser, the history; what callbacks see.
        dealer: gives the batches.
        rates: the learning rate of each step.
        best: keeps the best weights.
        clip_norm: the gradient's greatest norm, or ``None``.
        validate: metrics of the model, or ``None``.
        patience: epochs to wait for a better value, or ``None``.
        callbacks: called on the main process.
        checkpoints: where to keep them, or ``None``.
        checkpoint_every: seconds between two of them.
        settings: what a resumed run must share with the one that wrote the checkpoint.
    """

    run: Run
    dealer: Dealer
    rates: Rates
    best: Best
    clip_norm: float | None
    validate: Callable[[nn.Module], dict[str, float]] | None
    patience: int | None
    callbacks: Sequence[Callback]
    checkpoints: Checkpoints | None
    checkpoint_every: float
    settings: Mapping[str, Any]
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        run = self.run
        self._trained = run.processes.wrap(run.model, some_unused=len(self.dealer.parts) > 1)
        self._parameters = [(n, p) for n, p in run.model.named_parameters() if p.requires_grad]
        self._lr = 0.0
        self._saved_at = -1  # the step of the newest checkpoint
        self._interruption = Interruption()

    # ---- the run

    def go(self) -> History:
        """Train to the end; the model then has the best weights, or the last without any."""
        run, progress = self.run, self.progress
        self._started = self._epoch_started = self._saved_time = time.perf_counter()
        self._call("on_start")
        run.model.train()
        with self._interruption:
            while not progress.ended:
                agreed = self._step()
                if progress.batch == run.batches:
                    self._close_epoch()
                asked, stopping, saving = agreed or self._wishes()
                if stopping and not progress.ended:
                    progress.ended = "early"
                if asked or progress.ended:
                    break
                if saving:
                    self._save()
            run.history.stopped = progress.ended or "interrupted"
            self._save()
        self.best.put_into(run.model)
        self._call("on_end", run.history)
        return run.history

    def _step(self) -> list[bool]:
        """One step; gives what several processes agree to do after it, nothing for one alone."""
        run, processes = self.run, self.run.processes
        name, batch, carry = self.dealer.deal()
        self._lr = self.rates.set(run.optimizer, self.progress.step)

        start = time.perf_counter()
        run.optimizer.zero_grad(set_to_none=True)
        outcome = self.dealer.parts[name].objective(self._trained, batch, carry)
        terms, all_terms = outcome.terms, outcome.all_terms
        processes.share_of_loss(outcome.loss, terms, all_terms).backward()  # type: ignore[no-untyped-call]
        worked = time.perf_counter() - start

        loss, steps = float(outcome.loss.detach()) if terms else 0.0, outcome.steps
        agreed: list[bool] = []
        if processes.world > 1:  # one message for all that is to be known
            part = loss * terms / all_terms if terms else 0.0
            loss, seen, *wishes = processes.total([part, steps, *self._wishes()])
            steps, agreed = int(seen), [bool(w) for w in wishes]
        norm, clipped = measure_and_clip(self._parameters, self.clip_norm)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise self._diverged(loss, norm)

        start = time.perf_counter()
        run.optimizer.step()
        worked += time.perf_counter() - start

        self.dealer.done(name, outcome.carry)
        self.progress.add(loss, all_terms, steps, norm, clipped)
        run.step = self.progress.step
        if self.callbacks and processes.is_main:
            self._tell(name, loss, norm, clipped, all_terms, steps, worked)
        return agreed

    def _wishes(self) -> tuple[bool, bool, bool]:
        """Whether this process was told to end, a callback wants an end, a checkpoint is due.

        The last two are the main process's to say.
        """
        due = time.perf_counter() - self._saved_time >= self.checkpoint_every
        main = self.run.processes.is_main
        return self._interruption.asked, main and self.run.stopping, main and due

    def _close_epoch(self) -> None:
        """Validate, record, keep the weights if they are the best, mind the patience."""
        run, progress = self.run, self.progress
        trained = time.perf_counter()
        metrics = self._validated()
        now = time.perf_counter()
        record = progress.close_epoch(
            metrics, self._lr, trained - self._epoch_started, now - trained
        )
        self._epoch_started = now
        run.history.epochs.append(record)
        if self.validate is not None:
            better = self.best.offer(run.model, metrics, run.history, progress.step)
            progress.waited = 0 if better else progress.waited + 1
            if self.patience is not None and progress.waited > self.patience:
                progress.ended = "early"
        if progress.epoch == run.epochs and not progress.ended:
            progress.ended = "finished"
        self._call("on_epoch", record)

    def _validated(self) -> dict[str, float]:
        """The metrics, those of the main process: all decide alike."""
        if self.validate is None:
            return {}
        model = self.run.model
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        with torch.no_grad():
            metrics = {name: float(value) for name, value in self.validate(model).items()}
        for module, mode in modes:
            module.training = mode
        if self.run.processes.world > 1:
            metrics = unpack(self.run.processes.from_main(pack(metrics)))
        return metrics

    # ---- checkpoints

    def _save(self) -> None:
        if self.checkpoints is None or self._saved_at == self.progress.step:
            return
        run = self.run
        now = time.perf_counter()
        failure = ""
        own = pack({"random": random_state(), "places": self.dealer.state()})
        gathered = run.processes.gather(own)
        if run.processes.is_main:
            progress = self.progress.state()
            progress["seconds"] += now - self._epoch_started
            state = {
                "model": run.model.state_dict(),
                "best": self.best.weights,
                "optimizer": run.optimizer.state_dict(),
                "progress": progress,
                "history": asdict(run.history),
            }
            try:
                self.checkpoints.write(self.progress.step, self.settings, state, gathered)
            except ModelError as error:
                failure = str(error)
        failure = run.processes.text_from_main(failure)
        if failure:
            raise ModelError(failure)
        self._saved_at, self._saved_time = self.progress.step, time.perf_counter()

    def load(self, state: Any, own: Any) -> None:
        """Go on from a checkpoint: what is shared, and what is this process's own."""
        run = self.run
        run.model.load_state_dict(state["model"])
        self.best.weights = state["best"]
        run.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress.from_state(state["progress"])
        run.history = history_from(state["history"])
        run.step = run.resumed = self._saved_at = self.progress.step
        like: Tensor | None = next(run.model.parameters(), None)
        self.dealer.load(own["places"], like)
        set_random_state(own["random"])

    # ---- the rest

    def _diverged(self, loss: float, norm: float) -> DivergedError:
        """The error; the model has the best weights by then, and the disk too."""
        run = self.run
        have = self.best.put_into(run.model)
        kept = (
            f"the model has the best weights so far, those of step {run.history.best_step}"
            if have
            else "the model has the weights that gave this loss: there is no validation before it"
        )
        if self.checkpoints is not None and run.processes.is_main:
            directory = self.checkpoints.directory.parent
            path = directory / "diverged.safetensors"
            try:
                make_directory(directory)
                write_atomically(path, pack(run.model.state_dict()))
                kept += f", and they are in {path}"
            except ModelError as error:
                kept += f"; they could not be written: {error}"
        clip = "lower clip_norm" if self.clip_norm is not None else "clip the gradient: clip_norm=1"
        return DivergedError(
            f"step {self.progress.step + 1}, epoch {self.progress.epoch + 1}: loss {loss:g}, "
            f"gradient norm {norm:g}. Try: a lower learning rate (it is {self._lr:g}), or "
            f"warmup=0.05; {clip}; look for values in the data that are huge, NaN or infinite. "
            f"{kept[0].upper()}{kept[1:]}."
        )

    def _tell(
        self, name: str, loss: float, norm: float, clipped: bool, terms: int, steps: int, s: float
    ) -> None:
        run, progress = self.run, self.progress
        info = StepInfo(
            step=progress.step,
            epoch=progress.epoch + 1,
            batch=progress.batch,
            batches=run.batches,
            part=name,
            loss=loss,
            grad_norm=norm,
            clipped=clipped,
            terms=terms,
            steps=steps,
            lr=self._lr,
            seconds=s,
            elapsed=time.perf_counter() - self._started,
        )
        self._call("on_step", info)

    def _call(self, method: str, *args: StepInfo | EpochRecord | History) -> None:
        if self.run.processes.is_main:
            for callback in self.callbacks:
                getattr(callback, method)(self.run, *args)
