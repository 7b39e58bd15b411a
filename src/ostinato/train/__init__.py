"""Training: the loop, its checkpoints and callbacks, initialisation, several processes.

:func:`fit` is the door; the rest of the names are what it takes and gives back.
"""

from ostinato.train.callbacks import Callback, Run
from ostinato.train.directory import write_atomically
from ostinato.train.distributed import Processes, communication_seconds
from ostinato.train.dropout import RowDropout
from ostinato.train.fit import fit
from ostinato.train.history import EpochRecord, History, StepInfo
from ostinato.train.initialise import Initialised, initialise
from ostinato.train.parts import Batches, Objective, Outcome, Part

__all__ = [
    "Batches",
    "Callback",
    "EpochRecord",
    "History",
    "Initialised",
    "Objective",
    "Outcome",
    "Part",
    "Processes",
    "RowDropout",
    "Run",
    "StepInfo",
    "communication_seconds",
    "fit",
    "initialise",
    "write_atomically",
]
