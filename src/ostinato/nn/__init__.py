"""Layers: the drop-ins for torch.nn's, any cell through time, and ways to put layers together."""

from ostinato.nn.bidirectional import Bidirectional
from ostinato.nn.recurrent import Recurrent
from ostinato.nn.rnn import GRU, LSTM, RNN
from ostinato.nn.stacked import Stacked
from ostinato.nn.time_distributed import TimeDistributed

__all__ = ["GRU", "LSTM", "RNN", "Bidirectional", "Recurrent", "Stacked", "TimeDistributed"]
