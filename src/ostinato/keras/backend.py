"""Whether Keras is there and runs on PyTorch, which everything else in this folder needs."""

from __future__ import annotations

import importlib
import importlib.util

_SELECT = (
    'select it before the first import of keras, with os.environ["KERAS_BACKEND"] = "torch" in '
    'Python, KERAS_BACKEND=torch in the shell, or "backend": "torch" in ~/.keras/keras.json'
)


def require_torch_backend() -> None:
    """Import Keras and make sure that its backend is torch.

    Raises:
        ImportError: there is no Keras, its backend can't be imported, or is another one; says how
            to select torch.
    """
    found = importlib.util.find_spec("keras")
    if found is None or found.origin is None:
        raise ImportError(
            "ostinato.keras needs Keras 3, which is not installed: pip install 'ostinato[keras]'"
        )
    try:
        keras = importlib.import_module("keras")
    except ImportError as error:
        raise ImportError(
            f"ostinato.keras needs Keras on its torch backend, but Keras could not be imported "
            f"({error}), as happens where its backend is not installed; {_SELECT}"
        ) from error
    version = str(keras.__version__)
    if int(version.split(".")[0]) < 3:
        raise ImportError(
            f"ostinato.keras needs Keras 3, found {version}: pip install 'ostinato[keras]'"
        )
    backend = keras.backend.backend()
    if backend != "torch":
        raise ImportError(
            f"ostinato.keras needs Keras on its torch backend, but Keras runs on {backend!r}; "
            f"{_SELECT}"
        )
