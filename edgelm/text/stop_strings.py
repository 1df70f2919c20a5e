"""Cuts a stream of text before a stop string, however the stream is split into pieces."""

from __future__ import annotations

from edgelm.errors import ConfigError


class StopMatcher:
    """Finds the first of several stop strings in text that arrives in pieces.

    The first is the one whose last character arrives first; of several that end there, the one that starts earliest
    (the longest). The text is cut before it. How the text is split into pieces makes no difference.

    Raises:
        ConfigError: a stop string is empty.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        if not all(stops):
            raise ConfigError("a stop string must have at least one character, not ''")
        self._stops = stops
        self._first_characters = frozenset(stop[0] for stop in stops)
        self._longest = max((len(stop) for stop in stops), default=0)
        self._held = ""
        self._stopped = False

    def push(self, text: str) -> tuple[str, bool]:
        """Takes the next piece; returns the text that can be released, and whether a stop string was found.

        After a stop string was found nothing more is released.
        """
        if self._stopped:
            return "", True
        pending = self._held + text
        found = [(start + len(stop), start) for stop in self._stops if (start := pending.find(stop)) >= 0]
        if found:
            self._stopped = True
            self._held = ""
            return pending[: min(found)[1]], True
        cut = self._possible_start(pending)
        self._held = pending[cut:]
        return pending[:cut], False

    def finish(self) -> str:
        """What was held back, now that no text follows and it cannot become a stop string."""
        rest, self._held = self._held, ""
        return rest

    def _possible_start(self, pending: str) -> int:
        """Where the longest tail of ``pending`` starts that a stop string starts with; its length if none does."""
        for start in range(max(0, len(pending) - self._longest + 1), len(pending)):
            if pending[start] in self._first_characters:
                tail = pending[start:]
                if any(stop.startswith(tail) for stop in self._stops):
                    return start
        return len(pending)
