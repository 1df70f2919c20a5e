"""Measures what guessing ahead saves: the same prompts with and without it, in turn, in one process.

    python -m edgelm_tools.benchmark_guesses smollm2
    python -m edgelm_tools.benchmark_guesses smollm2-fp32 --draft smollm2

Some prompts ask for what copies from a passage, the others for free text, where there is little to guess. Which of the
two ways comes first changes from prompt to prompt; what counts is the ratio of the two speeds, prompt by prompt.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import click

from edgelm.config import MOST_GUESSES
from edgelm.errors import EdgeLMError
from edgelm.language_model import LanguageModel, load
from edgelm.results import GenerationResult
from edgelm_tools.benchmark import machine
from edgelm_tools.guessing_prompts import PROMPTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One prompt both ways: speeds of decoding in tokens/s, and the guesses of the faster way.

    Attributes:
        work: what kind of prompt.
        same: whether both answers have the same tokens.
    """

    work: str
    plain_tps: float
    guessing_tps: float
    guesses: int
    right: int
    same: bool

    @property
    def gain(self) -> float:
        """How many times as fast guessing is."""
        return self.guessing_tps / self.plain_tps


def compare(plain: LanguageModel, guessing: LanguageModel, *, new_tokens: int, runs: int) -> Iterator[Pair]:
    """Answers every prompt both ways, ``runs`` times.

    Args:
        plain: answers without guesses.
        guessing: with a draft model, or the same model, which then looks up its prompts.
        new_tokens: most tokens of an answer.
        runs: how often.
    """
    lookup = {"prompt_lookup_num_tokens": MOST_GUESSES} if guessing is plain else {}
    turns: list[tuple[LanguageModel, dict[str, Any]]] = [(plain, {}), (guessing, lookup)]
    for run in range(runs):
        for number, (work, prompt) in enumerate(PROMPTS):
            order = (0, 1) if (run + number) % 2 else (1, 0)
            results = {way: _answer(*turns[way], prompt, new_tokens) for way in order}
            if all(result.usage.completion_tokens > 1 for result in results.values()):
                yield _pair(work, results[0], results[1])


def _answer(lm: LanguageModel, settings: dict[str, Any], prompt: str, new_tokens: int) -> GenerationResult:
    return lm.chat([{"role": "user", "content": prompt}], max_new_tokens=new_tokens, do_sample=False, **settings)


def _pair(work: str, plain: GenerationResult, guessing: GenerationResult) -> Pair:
    return Pair(
        work=work,
        plain_tps=_speed(plain),
        guessing_tps=_speed(guessing),
        guesses=guessing.timings.draft_n,
        right=guessing.timings.draft_n_accepted,
        same=plain.token_ids == guessing.token_ids,
    )


def _speed(result: GenerationResult) -> float:
    return (result.usage.completion_tokens - 1) / result.timings.decode_s


def markdown_table(pairs: list[Pair]) -> str:
    """One row a kind of work: medians over its prompts."""
    lines = ["| work | plain tokens/s | guessing tokens/s | gain | guesses right |", "|---" * 5 + "|"]
    for work in dict.fromkeys(pair.work for pair in pairs):
        of_it = [pair for pair in pairs if pair.work == work]
        plain, guessing, gain = (
            statistics.median(getattr(pair, name) for pair in of_it) for name in ("plain_tps", "guessing_tps", "gain")
        )
        guesses, right = (sum(getattr(pair, name) for pair in of_it) for name in ("guesses", "right"))
        share = f"{right / guesses:.0%}" if guesses else "none made"
        lines.append(f"| {work} | {plain:.0f} | {guessing:.0f} | ×{gain:.2f} | {share} |")
    return "\n".join(lines)


@click.command()
@click.argument("model")
@click.option("--draft", metavar="MODEL", help="A draft model guesses, instead of a search in the prompt.")
@click.option("--runs", type=click.IntRange(min=1), default=3, show_default=True, help="Of all prompts.")
@click.option("-n", "--max-new-tokens", "new_tokens", type=click.IntRange(min=2), default=200, show_default=True)
@click.option("-t", "--threads", type=click.IntRange(min=1), help="Threads; default: one a core.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every single pair.")
def main(model: str, draft: str | None, runs: int, new_tokens: int, threads: int | None, as_json: bool) -> None:
    """Measure what guessing ahead saves with MODEL."""
    try:
        with load(model, threads=threads) as plain:
            guessing = plain if draft is None else load(model, threads=threads, draft=draft)
            with guessing:
                pairs = []
                for pair in compare(plain, guessing, new_tokens=new_tokens, runs=runs):
                    pairs.append(pair)
                    print(f"{pair.work}: ×{pair.gain:.2f}", file=sys.stderr, flush=True)
    except EdgeLMError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps({"machine": machine(), "pairs": [asdict(pair) | {"gain": pair.gain} for pair in pairs]}))
    else:
        parted = sum(not pair.same for pair in pairs)
        click.echo(f"{markdown_table(pairs)}\n\nanswers that differ: {parted} of {len(pairs)}")


if __name__ == "__main__":
    main()
