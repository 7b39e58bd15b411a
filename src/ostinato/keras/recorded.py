"""A training step recorded once as PyTorch operations, then played, as Keras's JAX backend does.

On its torch backend Keras runs all of its own Python in each step: calls of layers, loss, metrics
and optimizer. Of a small model's step that is most of the time.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import keras
import torch
from torch import Tensor

from ostinato.errors import InputError
from ostinato.keras.played import simplify
from ostinato.keras.recorded_loop import bind, recording
from ostinato.strictness import strict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch.fx import GraphModule

#: Shapes of batches for which a step is recorded; further ones run as Keras runs them.
MOST_SHAPES = 16

#: Characters of an error in the warning; PyTorch's go on for pages.
MOST_TOLD = 400


class RecordedSteps(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """``model.fit(..., callbacks=[RecordedSteps()])``: training steps without Keras's Python.

    The second step of each shape of batch is recorded: forward, loss, gradients, optimizer and
    metrics become one list of PyTorch operations and of the engine's loops, which all later steps
    of that shape play. They compute what Keras's step computes, to the bit. Weights, the
    optimizer's variables and metrics stay Keras's variables.

    What is recorded is what a step does then, as on Keras's JAX backend: Python in a layer's
    ``call``, a metric or a loss runs while recording and not in later steps, and a change of a
    plain attribute in the middle of ``fit`` is not noticed (a change of ``trainable`` is, and of
    any variable, such as the learning rate). Gradients aren't left in the parameters' ``grad``.

    A step that can't be recorded runs as Keras runs it, with a warning that says why: one that
    looks at values, draws by Keras's own seeds (noise layers; dropout doesn't), has masks or
    ``stateful`` layers, or is compiled with ``jit_compile`` or ``run_eagerly``; that of a model
    with its own ``train_step``, or not on the CPU.

    Raises:
        SlowPathError: in ``fit``, in strict mode, for a step that can't be recorded.
    """

    def __init__(self) -> None:
        super().__init__()
        self._steps: Steps | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Put the recorded step in the place of the model's."""
        plain = self.model.train_function
        if isinstance(plain, Steps):  # the last fit was interrupted
            plain = plain.plain
        # Keras makes another train function when the model is compiled anew.
        if self._steps is None or self._steps.plain is not plain or self._steps.gave_up:
            self._steps = Steps(self.model, plain)
        self.model.train_function = self._steps

    def on_train_end(self, logs: Any = None) -> None:
        """Give the model its own step back."""
        if isinstance(self.model.train_function, Steps):
            self.model.train_function = self.model.train_function.plain


class Steps:
    """A model's train function: records and plays.

    Args:
        model: compiled.
        plain: its own train function.
    """

    def __init__(self, model: Any, plain: Callable[[Any], Any]) -> None:
        self.model = model
        self.plain = plain
        self.recorded: dict[Any, _Recorded | None] = {}
        obstacle = _obstacle(model)
        self.gave_up = obstacle is not None
        if obstacle is not None:
            self._tell(obstacle)

    def __call__(self, data: Any) -> Any:
        """One step on one batch; its logs."""
        if self.gave_up:
            return self.plain(data)
        # None where there are no weights of samples.
        tensors = [t for t in keras.tree.flatten(data) if t is not None]
        key = tuple([(t.shape, t.stride(), t.dtype) for t in tensors])
        found = self.recorded.get(key)
        if found is not None and found.holds():
            return found.play(tensors)
        if key not in self.recorded:
            # Once the plain way: it builds what isn't built yet, and a shape may not come again.
            if len(self.recorded) < MOST_SHAPES:
                self.recorded[key] = None
            return self.plain(data)
        try:
            found = self.recorded[key] = _record(self.model, data, tensors)
        except Exception as error:  # whatever it is, Keras's own step says it better, or does it
            self.gave_up = True
            text = " ".join(str(error).split())
            self._tell(f"{type(error).__name__}: {text[:MOST_TOLD]}")
            return self.plain(data)
        return found.play(tensors)

    def _tell(self, reason: str) -> None:
        text = (
            f"the training step of {self.model.name!r} runs as Keras runs it, since it can't be "
            f"recorded: {reason}"
        )
        strict.check(text)
        warnings.warn(text, stacklevel=4)


def _obstacle(model: Any) -> str | None:
    """Why no step of this model can be recorded, if that is known beforehand."""
    for name in ("train_step", "make_train_function"):
        plain = getattr(keras.Model, name)
        if getattr(type(model), name) is not plain or name in vars(model):
            return f"the model has its own {name}"
    for name in ("jit_compile", "run_eagerly"):
        if getattr(model, name):
            return f"it is compiled with {name}=True"
    devices = {v.value.device.type for v in model.variables} - {"cpu"}
    return f"the model is on {', '.join(sorted(devices))}, not on the CPU" if devices else None


class _Recorded:
    """One step for batches of one shape.

    Args:
        graph: of the variables' values and the batch's tensors, to the logs' values.
        variables: Keras's.
        names: of the logs.
    """

    def __init__(self, graph: GraphModule, variables: list[Any], names: list[str]) -> None:
        self.forward = graph.forward
        self.variables = variables
        self.names = names
        self.trainable = [v.trainable for v in variables]

    def holds(self) -> bool:
        """Whether the same variables are trainable as when it was recorded."""
        return [v.trainable for v in self.variables] == self.trainable

    def play(self, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        """Do the step."""
        with torch.no_grad():
            found = self.forward(*[v.value for v in self.variables], *tensors)
        return dict(zip(self.names, found, strict=True))


def _record(model: Any, data: Any, tensors: Sequence[Tensor]) -> _Recorded:
    """Record the step that ``Model.train_step`` would do on ``data``, without doing it.

    The recording sees tensors without elements, so that nothing of the batch can end up in it: what
    looks at an element, or uses a tensor that is no variable's, is an error.
    """
    from torch.fx.experimental.proxy_tensor import make_fx  # takes a while

    trainable = model.trainable_variables
    every = [
        *trainable,
        *model.non_trainable_variables,
        *model.optimizer.variables,
        *model.metrics_variables,
    ]
    variables = list({id(v): v for v in every}.values())
    flat = keras.tree.flatten(data)
    names: list[str] = []

    def step(*given: Tensor) -> list[Tensor]:
        values, batch = given[: len(variables)], iter(given[len(variables) :])
        standing = [None if t is None else next(batch) for t in flat]
        (examples,) = keras.tree.pack_sequence_as(data, standing)
        logs = _step(model, variables, values, len(trainable), examples)
        names[:] = logs
        return list(logs.values())

    values = [v.value.detach() for v in variables]
    with recording() as loops:
        graph = make_fx(step, tracing_mode="fake")(*values, *tensors)
    bind(graph, loops)
    simplify(graph)
    return _Recorded(graph, variables, names)


def _step(
    model: Any, variables: list[Any], values: Sequence[Tensor], trainable: int, data: Any
) -> dict[str, Tensor]:
    """``Model.train_step`` on values that stand for the variables', which it writes over."""
    x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
    # The same memory under another name: differentiated before, written over after.
    leaves = [value.detach().requires_grad_() for value in values[:trainable]]
    mapping = list(zip(variables, (*leaves, *values[trainable:]), strict=True))
    scope = keras.StatelessScope(mapping, collect_losses=True)
    given = dict(scope.state_mapping)
    with scope:
        with torch.enable_grad():
            keywords = {"training": True} if model._call_has_training_arg else {}
            predicted = model(x, **keywords)
            loss = model._compute_loss(
                x=x, y=y, y_pred=predicted, sample_weight=weight, training=True
            )
            rows = next(t for t in keras.tree.flatten(x) if t is not None).shape[0]
            model._loss_tracker.update_state(loss.detach(), sample_weight=rows)
            loss = model.optimizer.scale_loss(loss)
            # Ones as a constant, of which nothing has to be computed in a play.
            one = torch.ones((), dtype=loss.dtype)
            grads = torch.autograd.grad(loss, leaves, one, allow_unused=True)
        with torch.no_grad():
            pairs = zip(grads, leaves, strict=True)
            laid_out = [None if g is None else _laid_out(g, leaf) for g, leaf in pairs]
            model.optimizer.apply(laid_out, variables[:trainable])
            logs = model.compute_metrics(x, y, predicted, sample_weight=weight)
    _write_back(scope, given, variables, values)
    return {name: torch.as_tensor(value) for name, value in logs.items()}


def _laid_out(grad: Tensor, leaf: Tensor) -> Tensor:
    """As in ``leaf.grad``: with its strides, which decide in what order a norm is summed."""
    return grad if grad.stride() == leaf.stride() else torch.empty_like(leaf).copy_(grad)


def _write_back(
    scope: Any, given: dict[int, Tensor], variables: list[Any], values: Sequence[Tensor]
) -> None:
    """Put what was assigned to variables where their values are."""
    if scope.state_mapping.keys() != given.keys():
        raise InputError("it assigns to a variable that is none of the model's")
    known = {id(t) for t in given.values()}
    with torch.no_grad():
        news = [scope.get_current_value(v) for v in variables]
        pairs = [
            # What may be another variable's memory might be written over before it is read.
            (value, new.clone() if id(new) in known or new._is_view() else new)
            for variable, value, new in zip(variables, values, news, strict=True)
            if new is not given[id(variable)]
        ]
        for value, new in pairs:
            value.copy_(new)
