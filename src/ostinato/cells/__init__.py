"""Cells: one paper, one file; the equations are the code.

A cell is one time step: ``cell(x, state) -> output, state`` or, like ``torch.nn.LSTMCell``, the
state alone. :class:`ostinato.Recurrent` runs it through time. One import here is one registry line.
"""

from ostinato.cells import registry as registry
from ostinato.cells.elman import Elman as Elman
from ostinato.cells.gru import GRU as GRU
from ostinato.cells.gru_layer_norm import LayerNormGRU as LayerNormGRU
from ostinato.cells.gru_reset_before import ResetBeforeGRU as ResetBeforeGRU
from ostinato.cells.indrnn import IndRNN as IndRNN
from ostinato.cells.ligru import LiGRU as LiGRU
from ostinato.cells.lstm import LSTM as LSTM
from ostinato.cells.lstm_coupled import CoupledLSTM as CoupledLSTM
from ostinato.cells.lstm_layer_norm import LayerNormLSTM as LayerNormLSTM
from ostinato.cells.lstm_peephole import PeepholeLSTM as PeepholeLSTM
from ostinato.cells.lstm_projected import ProjectedLSTM as ProjectedLSTM
from ostinato.cells.mgu import MGU as MGU
from ostinato.cells.mingru import MinGRU as MinGRU
