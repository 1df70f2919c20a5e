"""Cuts texts into sentences by rules, losing nothing: the pieces joined are the text.

A piece is a sentence with the white space behind it. Line breaks end a piece. Where a sentence may end is seen from its
punctuation, from the word before it (abbreviations, initials, ordinals) and from what follows.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import pairwise

from edgelm.text.abbreviations import Abbreviations, abbreviations
from edgelm.text.language_codes import base_language

_CLOSERS = "\"'”’»›)\\]}*_"
_OPENERS = "\"'“‘„‚«‹([{*_¿¡-–—"
_WIDE_CLOSERS = "」』）】〉》〕”’\"'"
# An end that needs white space behind it; one that needs none (CJK); or a line break.
_ENDS = re.compile(
    rf"(?<![.!?…])(?P<stop>[.!?…‽؟۔।॥։።]++)(?:[{_CLOSERS}]*+[^\S\r\n]++[»›]|[{_CLOSERS}]*+)[^\S\r\n]++"
    rf"|[。！？｡．‼⁇⁈⁉]++[{_WIDE_CLOSERS}]*+[^\S\r\n]*+"
    r"|(?:\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029])\s*+"
)
_GREEK_ENDS = re.compile(_ENDS.pattern.replace("[.!?", "[.!?;;"))
# What stands before a full stop: letters, digits, and full stops and hyphens inside.
_WORD_BEFORE = re.compile(r"[^\s\"'“”‘’„«»‹›()\[\]{}¿¡/]*\Z")
_LONGEST_WORD = 24
_CONTENT = re.compile(r"\S")
_INITIALS = re.compile(r"(?:[^\W\d_](?:\.|-)){0,4}[^\W\d_]")
_ACRONYM = re.compile(r"[^\W\d_](?:\.[^\W\d_])+")
_HOURS = frozenset({"a.m", "p.m"})
_CLAUSE_ENDS = re.compile(r"[;:,](?:[\"'”’»)\]]*)\s+|\s[–—-]\s+|[，、；：]\s*")


def split_sentences(text: str, language: str | None = None) -> list[str]:
    """The sentences of a text, each with the white space behind it; empty for an empty text.

    Args:
        text: any text.
        language: its code (``de``, ``pt-BR``), for abbreviations and ordinals; None: English's.
    """
    code = base_language(language)
    known = _known(code)
    ends = [0]
    content = _first_content(text, 0)
    for match in (_GREEK_ENDS if code == "el" else _ENDS).finditer(text):
        stop = match.group("stop")
        if match.end() < len(text) and (stop is None or _is_end(text, match, stop, content, known)):
            ends.append(match.end())
            content = _first_content(text, match.end())
    return [text[start:end] for start, end in pairwise([*ends, len(text)]) if end > start]


def split_clauses(text: str) -> list[str]:
    """The clauses of a sentence, each with its comma, colon or dash and the white space behind it."""
    ends = [0, *(match.end() for match in _CLAUSE_ENDS.finditer(text)), len(text)]
    return [text[start:end] for start, end in pairwise(ends) if end > start]


def _is_end(text: str, match: re.Match[str], stop: str, content: int, known: Abbreviations) -> bool:
    """Whether a sentence ends there; ``content``: where its first character is that is no white space."""
    following = _first_of_next(text, match.end())
    if following.islower() or text[match.end()].isspace():  # a line break, which is an end of its own
        return False
    if stop != ".":
        return True
    start = match.start()
    found = _WORD_BEFORE.search(text, max(content, start - _LONGEST_WORD), start)
    word = found.group() if found else ""
    if not word:
        return True
    return not _goes_on(word, following, known, at_line_start=start - len(word) <= content)


def _goes_on(word: str, following: str, known: Abbreviations, *, at_line_start: bool) -> bool:
    """Whether a word with a full stop behind it belongs to what follows."""
    lower = word.lower()
    if lower in known.before_words:
        return True
    if lower in known.before_numbers and following.isdigit():
        return True
    if word.isdecimal():  # an ordinal, or the number of an item
        return at_line_start or (known.ordinals and len(word) <= 2)
    if _ACRONYM.fullmatch(word):
        return word.isupper() or lower not in _HOURS
    return word.isupper() and _INITIALS.fullmatch(word) is not None


def _first_content(text: str, place: int) -> int:
    found = _CONTENT.search(text, place)
    return found.start() if found else len(text)


def _first_of_next(text: str, place: int) -> str:
    """The first character of what follows that is not an opening quote or the like; empty at the end."""
    while place < len(text) and text[place] in _OPENERS:
        place += 1
    return text[place : place + 1]


@lru_cache(maxsize=32)
def _known(code: str | None) -> Abbreviations:
    return abbreviations(code)
