"""Parts the text of an answer, as it comes, into what is said and the calls in it."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from edgelm.tool_calls.parsing import MAX_CALL_CHARS, MAX_CALLS, Calls, FoundCall, Style, ends_inside_string, parse_bare

# How an answer begins that may be nothing but calls.
_BARE = re.compile(r"\s*(?:[\[{]|```(?:json)?\s*\n\s*[\[{])")
_MAYBE_BARE = re.compile(r"\s*`{0,3}(?:j|js|jso|json)?\s*")


class CallScanner:
    """Takes the text piece by piece; how it is split makes no difference.

    Text is released at once, except what may begin a call, and white space before it. A call that is malformed, too
    long, or one too many is text like any other.

    Args:
        styles: in which calls are marked.
        names: of the tools: an answer that is JSON from its first character is taken for calls if it names these.
    """

    def __init__(self, styles: Sequence[Style], names: Collection[str]) -> None:
        self.calls: list[FoundCall] = []
        self._styles = styles
        self._names = frozenset(names)
        self._held = ""
        self._inside: Style | None = None
        self._is_bare: bool | None = None  # the answer began as JSON; None: not known yet

    def push(self, text: str) -> str:
        """Takes the next piece; returns what can be shown."""
        self._held += text
        return "".join(self._advance())

    def finish(self) -> str:
        """The rest, now that no text follows."""
        text = "".join(self._advance(at_end=True))
        return "" if self.calls and not text.strip() else text

    def _advance(self, *, at_end: bool = False) -> list[str]:
        shown: list[str] = []
        if self._is_bare is None and not self._decide(at_end):
            return shown
        if self._is_bare:
            if not at_end and len(self._held) <= MAX_CALL_CHARS:
                return shown
            self._is_bare = False
            calls = parse_bare(self._held) if len(self._held) <= MAX_CALL_CHARS else None
            if calls and self._names.issuperset(call.name for call in calls):
                self.calls += calls
                self._held = ""
        while True:
            piece, more = self._text(at_end) if self._inside is None else self._call(self._inside, at_end)
            shown.append(piece)
            if not more:
                return shown

    def _decide(self, at_end: bool) -> bool:
        """Whether it is known by now if the answer is JSON from its beginning."""
        if _BARE.match(self._held):
            # "[" also begins Mistral's mark.
            self._is_bare = not any(self._held.lstrip().startswith(style.opening[:2]) for style in self._styles)
        elif at_end or _MAYBE_BARE.fullmatch(self._held) is None:
            self._is_bare = False
        if self._held.strip() == "[" and not at_end:
            self._is_bare = None
        return self._is_bare is not None

    def _text(self, at_end: bool) -> tuple[str, bool]:
        """Text up to the next mark, and whether there is one."""
        found = [(place, style) for style in self._styles if (place := self._held.find(style.opening)) >= 0]
        if found and len(self.calls) < MAX_CALLS:
            place, style = min(found, key=lambda item: item[0])
            kept = len(self._held[:place].rstrip())
            shown, self._held = self._held[:kept], self._held[kept:]
            self._inside = style
            return shown, True
        cut = len(self._held) if at_end else self._possible_start()
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown, False

    def _possible_start(self) -> int:
        """Where the white space before a mark that may be about to come starts."""
        end = len(self._held)
        longest = max(len(style.opening) for style in self._styles)
        for start in range(max(0, end - longest + 1), end):
            tail = self._held[start:]
            if any(style.opening.startswith(tail) for style in self._styles):
                end = start
                break
        return len(self._held[:end].rstrip())

    def _call(self, style: Style, at_end: bool) -> tuple[str, bool]:
        """What the mark before a call turns out to be; the held text begins with white space and that mark."""
        start = self._held.index(style.opening) + len(style.opening)
        end = -1 if style.closing is None else self._closing(style.closing, start, at_end)
        if end < 0 and not at_end and len(self._held) - start <= MAX_CALL_CHARS + len(style.closing or ""):
            return "", False
        body = self._held[start : end if end >= 0 else None]
        calls: Calls = style.parse(body) if len(body) <= MAX_CALL_CHARS else None
        self._inside = None
        if calls is None or len(self.calls) + len(calls) > MAX_CALLS:
            # The mark is text; what stands behind it may hold another.
            shown, self._held = self._held[:start], self._held[start:]
            return shown, True
        self.calls += calls
        self._held = self._held[end + len(style.closing or "") :] if end >= 0 else ""
        return "", bool(self._held)

    def _closing(self, closing: str, start: int, at_end: bool) -> int:
        """Where the mark behind a call is, not counting those in its strings; -1: not there yet."""
        first = place = self._held.find(closing, start)
        while place >= 0 and ends_inside_string(self._held[start:place]):
            place = self._held.find(closing, place + 1)
        return first if place < 0 and at_end else place
