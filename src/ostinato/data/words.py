"""Text as tokens: words, pieces (nothing lost but spaces), or characters."""

from __future__ import annotations

import re

#: Scripts that write no spaces between words: Thai, Lao, Myanmar, Khmer, Kana, Han. Each of their
#: characters is a token.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\U00020000-\U0003ffff]"
)
#: Signs that combine with a letter, which ``\w`` doesn't match: accents, Hebrew, Arabic, and the
#: vowels of India's scripts.
_SIGNS = "\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0900-\u0963\u0966-\u0dff"
_WORDS = re.compile(rf"[\w{_SIGNS}]+(?:'[\w{_SIGNS}]+)*|[!?]|{_UNSPACED.pattern}")
_PIECES = re.compile(rf"[\w{_SIGNS}]+(?:['\u2019][\w{_SIGNS}]+)*|\n|[^\w\s]")
# Half the time of the general ones, and most of English is ASCII.
_ASCII_WORDS = re.compile(r"\w+(?:'\w+)*|[!?]")
_ASCII_PIECES = re.compile(r"\w+(?:'\w+)*|\n|[^\w\s]")
_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)


def words(text: str) -> list[str]:
    """The words of a text in lower case: what classification reads.

    A word is a run of letters and digits with apostrophes inside; ``!`` and ``?`` are tokens, and
    other marks are left out, as are HTML's line breaks. Of scripts without spaces each character
    is a token.

    Example:
        >>> words("It's GREAT!<br />Isn’t it? 10/10.")
        ["it's", 'great', '!', "isn't", 'it', '?', '10', '10']
        >>> words("好戏 2046")
        ['好', '戏', '2046']
    """
    if "<" in text:
        text = _BREAK.sub(" ", text)
    if text.isascii():
        return _ASCII_WORDS.findall(text.lower())
    return _WORDS.findall(_spaced(text.lower().replace("\u2019", "'")))


def pieces(text: str) -> list[str]:
    r"""Words as they are written, each mark, and each line end: what a word-level model writes.

    Example:
        >>> pieces("Who's there?\nNay, answer me.")
        ["Who's", 'there', '?', '\n', 'Nay', ',', 'answer', 'me', '.']
    """
    if text.isascii():
        return _ASCII_PIECES.findall(text)
    return _PIECES.findall(_spaced(text))


def characters(text: str) -> list[str]:
    """The characters of a text.

    Example:
        >>> characters("a b")
        ['a', ' ', 'b']
    """
    return list(text)


def _spaced(text: str) -> str:
    """``text`` with spaces around the characters that are tokens of their own."""
    return _UNSPACED.sub(r" \g<0> ", text) if _UNSPACED.search(text) else text
