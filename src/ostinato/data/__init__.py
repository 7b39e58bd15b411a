"""Data: readers, splits, vocabularies, and batches of sequences that have different lengths."""

from __future__ import annotations

from ostinato.data.bad_rows import BadRows as BadRows
from ostinato.data.batches import NO_TARGET as NO_TARGET
from ostinato.data.batches import Batch as Batch
from ostinato.data.batches import RaggedBatches as RaggedBatches
from ostinato.data.columns import guess_columns as guess_columns
from ostinato.data.columns import guess_label as guess_label
from ostinato.data.columns import guess_text as guess_text
from ostinato.data.conll import read_tagged as read_tagged
from ostinato.data.examples import Document as Document
from ostinato.data.examples import SeriesExamples as SeriesExamples
from ostinato.data.examples import SeriesTable as SeriesTable
from ostinato.data.examples import TaggedExamples as TaggedExamples
from ostinato.data.examples import TextExamples as TextExamples
from ostinato.data.examples import TextStream as TextStream
from ostinato.data.reading import read_text_examples as read_text_examples
from ostinato.data.rows import Row as Row
from ostinato.data.rows import Rows as Rows
from ostinato.data.rows import read_rows as read_rows
from ostinato.data.rows import require_columns as require_columns
from ostinato.data.series import read_series_examples as read_series_examples
from ostinato.data.series import read_series_table as read_series_table
from ostinato.data.split import split as split
from ostinato.data.streams import StreamBatches as StreamBatches
from ostinato.data.streams import TokenFile as TokenFile
from ostinato.data.streams import count_tokens as count_tokens
from ostinato.data.text import read_text_stream as read_text_stream
from ostinato.data.vocabulary import PADDING as PADDING
from ostinato.data.vocabulary import UNKNOWN as UNKNOWN
from ostinato.data.vocabulary import Vocabulary as Vocabulary
from ostinato.data.words import characters as characters
from ostinato.data.words import pieces as pieces
from ostinato.data.words import words as words
