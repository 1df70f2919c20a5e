"""Measures what a batch saves: prompts of many lengths one by one and all at a time, in turn, in one process.

    python -m edgelm_tools.benchmark_batches smollm2

Every answer has the same number of tokens, so that no row leaves early; prompts are read in both ways anew. What counts
is the ratio of both ways' tokens in all to their seconds in all, reading included.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, cycle, islice

import click

from edgelm.errors import EdgeLMError
from edgelm.language_model import LanguageModel, load
from edgelm.results import GenerationResult
from edgelm_tools.benchmark import machine
from edgelm_tools.guessing_prompts import PROMPTS

Answers = Sequence[GenerationResult]


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """All prompts both ways: answered tokens in a second, over all of them.

    Attributes:
        same: answers that have the same tokens in both ways.
    """

    single_tps: float
    batch_tps: float
    same: int

    @property
    def gain(self) -> float:
        """How many times as fast the batch is."""
        return self.batch_tps / self.single_tps


def prompts_of_many_lengths(count: int) -> list[str]:
    """``count`` prompts, of which every other has a passage to read."""
    kinds = dict.fromkeys(work for work, _ in PROMPTS)
    each = [[prompt for work, prompt in PROMPTS if work == kind] for kind in kinds]
    return list(islice(chain.from_iterable(zip(*map(cycle, each), strict=False)), count))


def compare(lm: LanguageModel, prompts: Sequence[str], *, new_tokens: int, runs: int) -> Iterator[Round]:
    """Answers all prompts both ways, ``runs`` times; which comes first changes.

    Args:
        lm: keeps no caches of finished answers.
        prompts: raw texts.
        new_tokens: tokens of every answer.
        runs: how often.
    """

    def single() -> Answers:
        return [lm.generate(prompt, max_new_tokens=new_tokens, eos_token_id=[]) for prompt in prompts]

    def batch() -> Answers:
        return lm.generate_batch(prompts, max_new_tokens=new_tokens, eos_token_id=[])

    for run in range(runs):
        ways = (single, batch) if run % 2 else (batch, single)
        made = {way: _timed(way) for way in ways}
        (alone, alone_s), (together, together_s) = made[single], made[batch]
        same = sum(one.token_ids == other.token_ids for one, other in zip(alone, together, strict=True))
        yield Round(single_tps=_tokens(alone) / alone_s, batch_tps=_tokens(together) / together_s, same=same)


def _timed(way: Callable[[], Answers]) -> tuple[Answers, float]:
    begin = time.perf_counter()
    answers = way()
    return answers, time.perf_counter() - begin


def _tokens(answers: Answers) -> int:
    return sum(answer.usage.completion_tokens for answer in answers)


@click.command()
@click.argument("model")
@click.option("--prompts", "count", type=click.IntRange(min=2), default=8, show_default=True, help="In a batch.")
@click.option("--runs", type=click.IntRange(min=1), default=5, show_default=True, help="Of both ways.")
@click.option("-n", "--max-new-tokens", "new_tokens", type=click.IntRange(min=2), default=100, show_default=True)
@click.option("-t", "--threads", type=click.IntRange(min=1), help="Threads; default: one a core.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every round.")
def main(model: str, count: int, runs: int, new_tokens: int, threads: int | None, as_json: bool) -> None:
    """Measure what batches save with MODEL."""
    rounds = []
    try:
        with load(model, threads=threads, prefix_caches=0) as lm:
            for one in compare(lm, prompts_of_many_lengths(count), new_tokens=new_tokens, runs=runs):
                rounds.append(one)
                print(f"×{one.gain:.2f}", file=sys.stderr, flush=True)
    except EdgeLMError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        each = [asdict(one) | {"gain": one.gain} for one in rounds]
        click.echo(json.dumps({"machine": machine(), "prompts": count, "rounds": each}))
        return
    single, batch, gain = (
        statistics.median(getattr(one, name) for one in rounds) for name in ("single_tps", "batch_tps", "gain")
    )
    click.echo(
        f"{count} prompts, {new_tokens} tokens each: one by one {single:.0f} tokens/s, as a batch {batch:.0f}, "
        f"×{gain:.2f}; the same tokens: {sum(one.same for one in rounds)} of {count * runs} answers"
    )


if __name__ == "__main__":
    main()
