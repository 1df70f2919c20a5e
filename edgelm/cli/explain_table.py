"""Explained tokens on a terminal: a block each, as wide as there is room."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from edgelm.inspection.explain.reasons import percent
from edgelm.inspection.explain.results import Candidate, ExplainedToken, Explanation, bits
from edgelm.inspection.explain.visible import printable, visible

_SHORT = {
    "sequence_bias": "bias",
    "logit_bias": "bias",
    "guidance_scale": "guidance",
    "encoder_repetition_penalty": "source",
    "repetition_penalty": "repeat",
    "presence_penalty": "presence",
    "frequency_penalty": "frequent",
    "no_repeat_ngram_size": "ngram",
    "encoder_no_repeat_ngram_size": "source",
    "bad_words_ids": "bad",
    "min_new_tokens": "min new",
    "min_length": "min len",
    "forced_bos_token_id": "forced",
    "forced_eos_token_id": "forced",
    "exponential_decay_length_penalty": "decay",
    "suppress_tokens": "suppress",
    "begin_suppress_tokens": "suppress",
    "top_n_sigma": "sigma",
    "temperature": "temp",
    "typical_p": "typical",
    "epsilon_cutoff": "epsilon",
    "eta_cutoff": "eta",
}
_CELL = 8
_MARGIN = 4
_TOKEN_WIDTHS = (8, 20)
_BAR_WIDTHS = (4, 20)
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_BOLD, _DIM, _RED, _PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[0m"


class Blocks:
    """The blocks of one answer.

    Args:
        width: columns of the terminal.
        colour: whether to use its colours.
    """

    def __init__(self, *, width: int, colour: bool) -> None:
        self._width = max(width, 40)
        self._colour = colour
        self._told: set[str] = set()
        self._count = 0

    def block(self, token: ExplainedToken) -> str:
        """The next token: what it tells the reader, its candidates with a column a stage, the cuts, the draw."""
        self._count += 1
        lines = [*self._new_stages(token), *self._title(token), *self._candidates(token)]
        lines += [*self._cuts(token), *_draw(token)]
        return "\n".join(lines) + "\n\n"

    def summary(self, explanation: Explanation) -> str:
        """What stands below all blocks."""
        count, surprise = len(explanation.tokens), explanation.mean_surprise
        return (
            f"{count} token{'' if count == 1 else 's'}, "
            f"mean surprise {surprise:.3f} nats ({bits(surprise):.3f} bits) a token, "
            f"perplexity {explanation.perplexity:.2f}\n{printable(explanation.text)}\n"
        )

    def _new_stages(self, token: ExplainedToken) -> list[str]:
        """The stages with their values, where one of them has not been there before."""
        labels = [stage.label for stage in token.stages]
        if self._told.issuperset(labels):
            return []
        self._told.update(labels)
        if len(labels) == 1:
            return []
        lines = _wrapped(f"stages: {' → '.join(labels)}", self._width, margin=0)
        return [*(self._styled(line, _DIM) for line in lines), ""]

    def _title(self, token: ExplainedToken) -> list[str]:
        surprise = _change("surprise", token.raw_surprise, token.surprise)
        entropy = _change("entropy", token.raw_entropy, token.entropy)
        name = f"{self._count:>3} {self._styled(visible(token.token), _BOLD)}"
        if _cells(f"{self._count:>3} {visible(token.token)}  {surprise}  {entropy}") <= self._width:
            return [f"{name}  {surprise}  {entropy}"]
        return [name, f"{'':{_MARGIN}}{surprise}", f"{'':{_MARGIN}}{entropy}"]

    def _candidates(self, token: ExplainedToken) -> list[str]:
        longest = max(_cells(visible(candidate.token)) for candidate in token.candidates)
        name = min(max(longest, _TOKEN_WIDTHS[0]), _TOKEN_WIDTHS[1], self._width // 3)
        room = self._width - _MARGIN - name - 2
        columns = _columns(len(token.stages), (room - _BAR_WIDTHS[0]) // (_CELL + 1))
        bar = max(0, min(room - len(columns) * (_CELL + 1) - 1, _BAR_WIDTHS[1]))
        heads = [_SHORT.get(token.stages[column].name, token.stages[column].name)[:_CELL] for column in columns]
        header = f"{'':{_MARGIN + name}}" + "".join(f" {head:>{_CELL}}" for head in heads)
        return [
            self._styled(header, _DIM),
            *(self._row(candidate, columns, name, bar, candidate.id == token.id) for candidate in token.candidates),
        ]

    def _row(self, candidate: Candidate, columns: Sequence[int], name: int, bar: int, chosen: bool) -> str:
        # A stage that has no column is told in the next one.
        before = [-1, *columns]
        cells = "".join(f" {self._cell(candidate, *pair)}" for pair in zip(before, columns, strict=False))
        label = _fitted(visible(candidate.token), name)
        row = f"{'  ▸ ' if chosen else '':{_MARGIN}}{label}{cells} {_bar(candidate.probabilities[-1], bar)}".rstrip()
        return self._styled(row, _BOLD) if chosen else row

    def _cell(self, candidate: Candidate, before: int, column: int) -> str:
        removed = candidate.removed_by
        if removed is None or column < removed:
            return f"{_rounded(candidate.probabilities[column]):>{_CELL}}"
        return self._styled(f"{'✗':>{_CELL}}", _RED) if before < removed else " " * _CELL

    def _cuts(self, token: ExplainedToken) -> list[str]:
        lines = []
        for place, stage in enumerate(token.stages):
            if not stage.removed:
                continue
            cut = f"{stage.name} cut {stage.removed} ({percent(stage.removed_mass)})"
            # The likeliest of them: candidates stand in that order.
            first = next((candidate for candidate in token.candidates if candidate.removed_by == place), None)
            if first is not None:
                cut += f"; {visible(first.token)}: {first.reason}"
            lines += _wrapped(cut, self._width)
        return lines

    def _styled(self, text: str, style: str) -> str:
        return f"{style}{text}{_PLAIN}" if self._colour else text


def _change(what: str, raw: float, final: float) -> str:
    """``surprise 1.77 → 1.26 nats (2.55 → 1.81 bits)``; one number where both are the same."""
    pairs = [(f"{raw:.2f}", f"{final:.2f}"), (f"{bits(raw):.2f}", f"{bits(final):.2f}")]
    nats_text, bits_text = (first if first == last else f"{first} → {last}" for first, last in pairs)
    return f"{what} {nats_text} nats ({bits_text} bits)"


def _draw(token: ExplainedToken) -> list[str]:
    if token.choice == "given":
        return []
    if token.uniform is None or token.interval is None:
        return [f"{'':{_MARGIN}}took the likeliest"]
    start, end = token.interval
    return [f"{'':{_MARGIN}}drew {token.uniform:.4f}; {visible(token.token)} has {start:.4f} to {end:.4f}"]


def _columns(stages: int, room: int) -> list[int]:
    """The stages to show: all, or the first and the latest for which there is room."""
    if stages <= room:
        return list(range(stages))
    return [0, *range(stages - max(1, room - 1), stages)]


def _rounded(probability: float) -> str:
    value = 100 * probability
    return percent(probability) if value >= 0.1 else f"{value:.2f} %" if value >= 0.01 else "<0.01 %"


def _bar(probability: float, width: int) -> str:
    whole, eighths = divmod(round(probability * width * 8), 8)
    return "█" * whole + (_EIGHTHS[eighths] if eighths else "")


def _wrapped(text: str, width: int, *, margin: int = _MARGIN) -> list[str]:
    """Lines of words; the first has the margin, the others more."""
    lines: list[str] = []
    line = ""
    for word in text.split(" "):
        if line and _cells(line) + 1 + _cells(word) > width:
            lines.append(line)
            line = ""
        line = f"{line} {word}" if line else f"{'':{margin + 2 * bool(lines)}}{word}"
    return [*lines, line]


def _fitted(text: str, width: int) -> str:
    """Exactly so many cells wide; what is longer is cut, and says so."""
    if _cells(text) > width:
        while _cells(text) > width - 1:
            text = text[:-1]
        text += "…"
    return text + " " * (width - _cells(text))


def _cells(text: str) -> int:
    """Columns that a text takes: East Asian characters two, marks that join the one before none."""
    return sum(0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF") for char in text)
