"""How good the graphs of an encoder-decoder are: its decoder's distributions against a reference's, teacher-forced.

Each paragraph of the evaluation text is read by the encoder and then said again by the decoder, whatever the model was
made for: every decoder step sees the source and what is right so far.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgelm.bundle.progress import NoProgress, Progress
from edgelm.errors import ModelError
from edgelm.runtime.cores import available_cores
from edgelm.runtime.session import Session, Tensor
from edgelm.text.tokenizer import Tokenizer
from edgelm_tools.architectures.base import ModelFacts
from edgelm_tools.quality import Quality, Tally, evaluation_text
from edgelm_tools.runs import run

SEQ2SEQ_TOKENS = 2048
# Longer paragraphs are cut there: two sets of logits of a large vocabulary stay within a few hundred megabytes.
LONGEST = 128


class Seq2SeqPair:
    """Encoder and decoder of one folder."""

    def __init__(self, folder: Path) -> None:
        self._encoder, self._decoder = (
            Session(folder / f"{role}.onnx", threads=available_cores()) for role in ("encoder", "decoder")
        )

    def logits(self, source: Sequence[int], target: Sequence[int]) -> NDArray[np.float32]:
        """Logits after each token of the target, (T, V) float32."""
        ids = np.array([target], np.int64)
        given = {"encoder_attention_mask": Tensor(np.ones((1, len(source)), np.int32)), **self._encoded(source)}
        return (self._at_once if "seqlens_k" in self._decoder.inputs else self._step_by_step)(ids, given)

    def _at_once(self, ids: NDArray[np.int64], given: dict[str, Tensor]) -> NDArray[np.float32]:
        count = ids.shape[1]
        inputs = given | {
            "input_ids": Tensor(ids),
            "position_ids": Tensor(np.arange(count, dtype=np.int64)[None]),
            "seqlens_k": Tensor(np.array([count - 1], np.int32)),
            "total_sequence_length": Tensor(np.array(count, np.int32)),
            "logit_index": Tensor(np.arange(count, dtype=np.int64)),
        }
        caches = {
            name: Tensor(np.zeros((1, int(info.shape[1]), count, int(info.shape[3])), np.float32))
            for name, info in self._decoder.inputs.items()
            if name.startswith("past_key_values.")
        }
        presents = {name.replace("past_key_values", "present"): cache for name, cache in caches.items()}
        logits = self._empty_logits(count)
        run(self._decoder, inputs | caches, {"logits": logits, **presents})
        return logits.array

    def _step_by_step(self, ids: NDArray[np.int64], given: dict[str, Tensor]) -> NDArray[np.float32]:
        """A decoder with a recurrent state takes one token after the other."""
        infos = {name: info for name, info in self._decoder.inputs.items() if name.startswith("state.")}
        state = {name: Tensor(np.zeros((1, int(info.shape[1])), np.float32)) for name, info in infos.items()}
        rows = []
        for place in range(ids.shape[1]):
            tokens, positions = np.array(ids[:, place : place + 1]), np.full((1, 1), place, np.int64)
            following = {name: Tensor(np.empty_like(tensor.array)) for name, tensor in state.items()}
            logits = self._empty_logits(1)
            inputs = given | state | {"input_ids": Tensor(tokens), "position_ids": Tensor(positions)}
            run(self._decoder, inputs, {"logits": logits, **{f"next_{name}": t for name, t in following.items()}})
            rows.append(logits.array)
            state = following
        return np.concatenate(rows)

    def _empty_logits(self, count: int) -> Tensor:
        return Tensor(np.empty((count, int(self._decoder.outputs["logits"].shape[1])), np.float32))

    def _encoded(self, source: Sequence[int]) -> dict[str, Tensor]:
        ids = np.array([source], np.int64)
        outputs = {
            name: Tensor(np.empty((1, int(info.shape[1]), len(source), int(info.shape[3])), np.float32))
            for name, info in self._encoder.outputs.items()
        }
        run(self._encoder, {"input_ids": Tensor(ids), "attention_mask": Tensor(np.ones_like(ids))}, outputs)
        return outputs

    def close(self) -> None:
        """Gives both graphs back."""
        self._encoder.close()
        self._decoder.close()


def measure_seq2seq(folder: Path, reference: Path, facts: ModelFacts, progress: Progress | None = None) -> Quality:
    """Runs the graphs of both folders over the paragraphs of the evaluation text; ``folder`` has the tokenizer, too.

    Raises:
        ModelError: the model has no token that its decoder starts with.
    """
    if facts.decoder_start_token_id is None:
        raise ModelError(f"a {facts.architecture} without decoder_start_token_id cannot be measured")
    longest = min(LONGEST, facts.context_length, facts.source_length or LONGEST)
    texts = list(paragraphs(Tokenizer.from_file(folder / "tokenizer.json"), longest))
    with closing(Seq2SeqPair(folder)) as candidate, closing(Seq2SeqPair(reference)) as yardstick:
        return compare_seq2seq(candidate, yardstick, texts, facts.decoder_start_token_id, progress)


def compare_seq2seq(
    candidate: Seq2SeqPair,
    reference: Seq2SeqPair,
    texts: Sequence[Sequence[int]],
    start: int,
    progress: Progress | None = None,
) -> Quality:
    """Compares two models that say texts of token ids again; ``start``: the token that their decoders start with."""
    shown = progress or NoProgress()
    shown.start("Measuring quality", sum(map(len, texts)))
    tally = Tally()
    for ids in texts:
        target = [start, *ids[:-1]]
        tally.add(candidate.logits(ids, target), reference.logits(ids, target), np.asarray(ids, np.int64))
        shown.advance(len(ids))
    shown.finish()
    return tally.quality()


def paragraphs(tokenizer: Tokenizer, longest: int) -> Iterator[list[int]]:
    """The evaluation text's first paragraphs as token ids, each with the tokens that the model puts around a text."""
    left = SEQ2SEQ_TOKENS
    for text in evaluation_text().split("\n\n"):
        ids = tokenizer.encode(" ".join(text.split()))[: min(longest, left)]
        left -= len(ids)
        if ids:
            yield ids
