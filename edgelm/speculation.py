"""Who guesses for an answer: a search in its own tokens, or a draft model, which is lent a KV cache like any other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from edgelm.bundle.bundle import Bundle
from edgelm.config import GenerationConfig, RuntimeConfig
from edgelm.errors import ConfigError, UnsupportedModelError
from edgelm.generation.batch import Ids
from edgelm.generation.requests import ModelSizes, Request, check_request
from edgelm.generation.speculative import Guesser
from edgelm.generation.speculative_draft import DraftGuesser
from edgelm.generation.speculative_lookup import NGramGuesser
from edgelm.runtime.memory import INTERPRETER_AND_LIBRARIES, Needs, budget, budget_of
from edgelm.runtime.sequences import SequencePool

if TYPE_CHECKING:
    from edgelm.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, eq=False)
class Speculation:
    """The guesses for one answer.

    Attributes:
        guesser: makes them.
        end: to be called once when the answer ends, with all its tokens and the prompt's, or None if the answer failed.
        cancel: ends the run in progress, from another thread; the answer has then failed.
    """

    guesser: Guesser
    end: Callable[[Ids | None], None]
    cancel: Callable[[], None] = lambda: None


class Model(Protocol):
    """What of a loaded model counts for whether it can be a draft, or have one."""

    name: str
    bundle: Bundle

    @property
    def tokenizer(self) -> Tokenizer:
        """Read when first needed."""
        ...


class DraftModel:
    """A loaded model that guesses for another one.

    Args:
        bundle: the draft's.
        pool: the draft's decoders.
        context_length: tokens that one of them may hold.
        runtime: how it is run.
        of: the bundle of the model that it guesses for.
    """

    def __init__(
        self, bundle: Bundle, pool: SequencePool, *, context_length: int, runtime: RuntimeConfig, of: Bundle
    ) -> None:
        self._manifest = bundle.manifest
        self._pool = pool
        self._context_length = context_length
        self._runtime = runtime
        # A step reads all weights, and takes about as long as that.
        weights = [budget(each.manifest, tokens=1, prefill_chunk=1).weights for each in (bundle, of)]
        self._cost = weights[0] / weights[1]

    def start(self, request: Request, config: GenerationConfig, sizes: ModelSizes, tokens: int) -> Speculation:
        """Begins the guesses for an answer.

        Args:
            request: what is answered.
            config: how.
            sizes: of the model that answers.
            tokens: of prompt and answer together.

        Raises:
            ClosedError: the draft model is closed.
            UnsupportedModelError: its graph takes one token at a time.
        """
        tokens = min(tokens, self._context_length)
        loan = self._pool.borrow(np.asarray(request.prompt, np.int64), tokens)
        if not loan.decoder.verifies:
            self._pool.discard(loan)
            raise UnsupportedModelError(f"{self._manifest.name} takes one token at a time: it cannot be a draft model")
        loan.decoder.reserve(tokens)
        process = check_request(request, config, sizes).process
        guesser = DraftGuesser(loan.decoder, process, config, vocab_size=sizes.vocab_size, cost=self._cost)

        def end(ids: Ids | None) -> None:
            if ids is not None:
                guesser.settle(np.asarray(ids, np.int64))
            self._pool.end(loan, ids)

        return Speculation(guesser, end, loan.decoder.cancel)

    def bytes_for(self, needs: Needs) -> int:
        """What the draft model takes, beside the interpreter, where the model's generations need that much."""
        runtime = self._runtime
        whole = budget_of(
            self._manifest,
            needs,
            prefill_chunk=runtime.prefill_chunk,
            kv_cache=runtime.kv_cache,
            threads=runtime.threads,
        )
        return whole.total - INTERPRETER_AND_LIBRARIES

    def bytes_beside(self, tokens: int, sequences: int = 1) -> int:
        """The same where so many tokens are held in all."""
        return self.bytes_for(Needs(tokens=tokens, sequences=sequences, rows=sequences, longest=tokens))


def start_speculation(
    request: Request, config: GenerationConfig, sizes: ModelSizes, tokens: int, draft: DraftModel | None
) -> Speculation | None:
    """Begins the guesses that a configuration or a draft model asks for; None: no guesses.

    Raises:
        ConfigError: the request is none that guesses are made for.
        Others: see ``DraftModel.start``.
    """
    most = config.prompt_lookup_num_tokens
    if not most and draft is None:
        return None
    asked = "prompt_lookup_num_tokens" if most else "a draft model"
    if request.source is not None:
        raise ConfigError(f"{asked} is for decoder-only models, not for one that answers a source")
    if config.num_beams > 1:
        raise ConfigError(f"{asked} is for answers made token by token, not for num_beams={config.num_beams}")
    if draft is None:
        return Speculation(NGramGuesser(most or 0), lambda ids: None)
    if most:
        raise ConfigError("prompt_lookup_num_tokens and a draft model both guess what comes: give one of them")
    return draft.start(request, config, sizes, tokens)


def check_draft(model: Model, draft: Model) -> None:
    """Refuses a draft for a model with another vocabulary, or where one of them is no decoder.

    Raises:
        UnsupportedModelError: it does; says what differs.
    """
    from edgelm.text_side import TOKENIZER_NAME  # most models have no draft, and begin without the text side

    for each, other in ((model, "has no use for a draft model"), (draft, "cannot be a draft model")):
        family = each.bundle.manifest.family
        if family != "decoder":
            raise UnsupportedModelError(f"{each.name} is an {family}, not a decoder, and {other}")
    files = [each.bundle.manifest.files.get(TOKENIZER_NAME) for each in (model, draft)]
    if files[0] is not None and files[0] == files[1]:
        return
    ours, theirs = model.tokenizer, draft.tokenizer
    difference = None
    if ours.vocab_size != theirs.vocab_size:
        difference = f"{theirs.vocab_size} tokens, not {ours.vocab_size}"
    else:
        pairs = ((token, ours.id_to_token(token), theirs.id_to_token(token)) for token in range(ours.vocab_size))
        parted = next((pair for pair in pairs if pair[1] != pair[2]), None)
        if parted is not None:
            difference = f"{parted[2]!a:.40} as token {parted[0]}, not {parted[1]!a:.40}"
    if difference is not None:
        raise UnsupportedModelError(
            f"{draft.name} has another vocabulary than {model.name}, so it cannot be its draft model: {difference}"
        )
