"""Words, pieces and characters of texts in many scripts."""

from __future__ import annotations

import pytest

from ostinato.data import characters, pieces, words


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", []),
        ("...", []),
        ("Don't STOP!", ["don't", "stop", "!"]),
        ("'quoted' rock'n'roll dogs'", ["quoted", "rock'n'roll", "dogs"]),
        ("a<br />b<BR>c<br/>d < e", ["a", "b", "c", "d", "e"]),
        ("brown<breeze", ["brown", "breeze"]),
        ("10/10, 3.5 snake_case", ["10", "10", "3", "5", "snake_case"]),
        ("?!", ["?", "!"]),
        ("L\u2019été, CAFÉ", ["l'été", "café"]),
        ("cafe\u0301s", ["cafe\u0301s"]),
        ("Straße ПРИВЕТ", ["straße", "привет"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("東京タワーtower2", ["東", "京", "タ", "ワ", "ー", "tower2"]),
        ("ไป", ["ไ", "ป"]),
        ("ครับ", ["ค", "ร", "ั", "บ"]),
        ("안녕 하세요", ["안녕", "하세요"]),
        ("שָׁלוֹם", ["שָׁלוֹם"]),
        ("مَرْحَبًا", ["مَرْحَبًا"]),
    ],
)
def test_words(text: str, tokens: list[str]) -> None:
    assert words(text) == tokens


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", []),
        ("To be, or not\n\nTo be!", ["To", "be", ",", "or", "not", "\n", "\n", "To", "be", "!"]),
        ("It's “fine”—so", ["It's", "“", "fine", "”", "—", "so"]),
        ("isn\u2019t", ["isn\u2019t"]),
        ("ครับ 漢字。", ["ค", "ร", "ั", "บ", "漢", "字", "。"]),
        ("हिन्दी।", ["हिन्दी", "।"]),
    ],
)
def test_pieces(text: str, tokens: list[str]) -> None:
    assert pieces(text) == tokens


@pytest.mark.parametrize(
    "text", ["To be, or not\nto be: that's (a) question?!", "漢字, é — «x» ไป"]
)
def test_pieces_lose_nothing_but_spaces(text: str) -> None:
    assert "".join(pieces(text)) == text.replace(" ", "")


def test_characters() -> None:
    assert characters("a\r\n é") == ["a", "\r", "\n", " ", "é"]
