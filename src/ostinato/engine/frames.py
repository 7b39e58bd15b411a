"""Functions that Dynamo leaves alone, and all that they call.

After a graph break Dynamo tries to compile each function that is called outside of the graph, those
that autograd calls too. The public ``torch.compiler.disable`` would import Dynamo here and cost its
wrapper at each call.
"""

from __future__ import annotations

from typing import Any

import torch

_frames: Any = torch._C._dynamo.eval_frame
_SKIP = _frames._FrameAction.SKIP


def outside_of_graphs(function: Any) -> None:
    """Tell Dynamo to run ``function`` as it is."""
    _frames.set_code_exec_strategy(function.__code__, _frames._FrameExecStrategy(_SKIP, _SKIP))
