"""Nested Python values with tensors in them, as one safetensors file: no pickles.

Tensors become the file's tensors; the structure around them, exactly as it was (tuples stay tuples,
numbers as keys stay numbers, floats keep their bits), becomes JSON in the file's metadata.
"""

from __future__ import annotations

import json
from typing import Any

from torch import Tensor

from ostinato.errors import InputError, ModelError

_PLAIN = (bool, int, float, str, type(None))


def pack(value: Any) -> bytes:
    """``value``, made of dicts, lists, tuples, tensors, numbers, text and ``None``, as bytes.

    Raises:
        InputError: something else is in it.
    """
    safetensors = _safetensors()
    tensors: dict[str, Tensor] = {}
    seen: dict[Any, str] = {}
    structure = _taken_apart(value, tensors, seen, "")
    saved: bytes = safetensors.save(tensors, {"structure": json.dumps(structure)})
    return saved


def unpack(data: bytes) -> Any:
    """What :func:`pack` was given; its tensors are on the CPU.

    Raises:
        ModelError: the bytes are damaged.
    """
    safetensors = _safetensors()
    try:
        size = int.from_bytes(data[:8], "little")
        structure = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["structure"])
        return _put_together(structure, safetensors.load(data))
    except Exception as error:  # the library raises its own kinds, one for each kind of damage
        raise ModelError(f"not what was packed: {error!r}") from error


def _taken_apart(value: Any, tensors: dict[str, Tensor], seen: dict[Any, str], where: str) -> Any:
    if isinstance(value, Tensor):
        # Tied weights are stored once.
        storage = value.untyped_storage()
        whole = storage.data_ptr(), value.device
        key = (value.data_ptr(), *whole, value.shape, value.stride(), value.dtype)
        if value.numel() == 0 or key not in seen:
            seen[key] = str(len(tensors))
            on_cpu = value.detach().cpu().contiguous()
            # The format has no views: what shares memory otherwise is stored by itself.
            if whole in seen or storage.nbytes() != value.nbytes:
                on_cpu = on_cpu.clone()
            tensors[seen[key]] = on_cpu
            seen[whole] = seen[key]
        return {"tensor": seen[key]}
    if isinstance(value, _PLAIN):
        return {"value": value}
    if isinstance(value, dict):
        items = [
            [
                _taken_apart(k, tensors, seen, where),
                _taken_apart(v, tensors, seen, f"{where}[{k!r}]"),
            ]
            for k, v in value.items()
        ]
        return {"dict": items}
    if type(value) in (list, tuple):
        parts = [_taken_apart(v, tensors, seen, f"{where}[{k}]") for k, v in enumerate(value)]
        return {type(value).__name__: parts}
    raise InputError(
        f"{where or 'the value'} is a {type(value).__name__}, which a checkpoint can't hold; it "
        "holds dicts, lists, tuples, tensors, numbers, text and None"
    )


def _put_together(structure: Any, tensors: dict[str, Tensor]) -> Any:
    ((kind, content),) = structure.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "value":
        return content
    if kind == "dict":
        return {_put_together(k, tensors): _put_together(v, tensors) for k, v in content}
    parts = [_put_together(part, tensors) for part in content]
    return tuple(parts) if kind == "tuple" else parts


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise InputError("checkpoints need safetensors: pip install 'ostinato[train]'") from error
    return safetensors.torch


def cloned(value: Any) -> Any:
    """``value`` with copies of its tensors on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: cloned(item) for key, item in value.items()}
    return value
