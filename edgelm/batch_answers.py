"""The answers to a batch of requests as they are made: greedy or sampled ones row by row, those of beams at the end."""

from __future__ import annotations

from edgelm.config import GenerationConfig
from edgelm.generation.batch import BatchDecoder
from edgelm.generation.batch_loop import generate_batch_ids
from edgelm.generation.beam_search import beam_search
from edgelm.generation.hooks import Hooks
from edgelm.generation.requests import Request, given
from edgelm.results import GenerationResult, Stopwatch, Usage
from edgelm.runtime.memory import peak_memory
from edgelm.text.tokenizer import Tokenizer
from edgelm.text_stream import IncrementalText


def batch_answers(
    decoder: BatchDecoder, requests: list[Request], config: GenerationConfig, tokenizer: Tokenizer, hooks: Hooks
) -> list[list[GenerationResult]]:
    """Runs requests side by side, and returns ``num_return_sequences`` answers to each.

    Raises:
        As ``generate_batch_ids`` and ``beam_search``.
    """
    count = len(requests) * config.num_return_sequences
    answers = [_Answer(IncrementalText(tokenizer, config.stop_strings)) for _ in range(count)]
    made = (_searched if config.num_beams > 1 else _chosen)(decoder, requests, config, answers, hooks)
    each = config.num_return_sequences
    return [made[start : start + each] for start in range(0, count, each)]


class _Answer:
    """One answer, told its tokens as they are made."""

    def __init__(self, text: IncrementalText) -> None:
        self.watch = Stopwatch()
        self.text = text
        self._pieces: list[str] = []
        self._token_ids: list[int] = []
        self._stopped = False

    def push(self, token: int) -> bool:
        """Takes the newest token; whether a stop string ended the answer."""
        self.watch.token_came()
        self._token_ids.append(token)
        piece, self._stopped = self.text.push(token)
        self._pieces.append(piece)
        return self._stopped

    def result(self, reason: str, request: Request, score: float | None = None) -> GenerationResult:
        """The whole answer, which has ended for that reason, or by a stop string."""
        if not self._stopped:
            rest, self._stopped = self.text.finish()
            self._pieces.append(rest)
        return GenerationResult(
            "".join(self._pieces),
            tuple(self._token_ids),
            "stop" if self._stopped else str(reason),
            Usage(len(given(request)), 0, len(self._token_ids)),
            self.watch.timings(),
            peak_memory(),
            self.text.logprobs,
            score=score,
        )


def _chosen(
    decoder: BatchDecoder, requests: list[Request], config: GenerationConfig, answers: list[_Answer], hooks: Hooks
) -> list[GenerationResult]:
    """Greedy or sampled answers, each complete when its row ends."""
    ended: dict[int, GenerationResult] = {}
    over = lambda row, token: answers[row].push(token)  # noqa: E731
    for row, step in generate_batch_ids(decoder, requests, config, hooks=hooks, over=over):
        answers[row].text.note(step.token, step.logprobs)
        if step.finish_reason is not None:
            ended[row] = answers[row].result(step.finish_reason, requests[row // config.num_return_sequences])
    return [ended[row] for row in range(len(answers))]


def _searched(
    decoder: BatchDecoder, requests: list[Request], config: GenerationConfig, answers: list[_Answer], hooks: Hooks
) -> list[GenerationResult]:
    """The best answers of a beam search each."""

    def prefill_ended() -> None:
        for answer in answers:
            answer.watch.prefill_ended()

    blank = iter(answers)
    results = []
    found = beam_search(decoder, requests, config, processors=hooks.logits_processor, prefill_ended=prefill_ended)
    for request, hypotheses in zip(requests, found, strict=True):
        for hypothesis in hypotheses:
            answer = next(blank)
            for token in hypothesis.tokens:
                if answer.push(token):
                    break
            score = hypothesis.score if hypothesis.tokens else None
            results.append(answer.result(hypothesis.finish_reason, request, score))
    return results
