"""Diverse beam searches and what transformers 4.53.3, which still had them, answered: ``diverse_beams.json``.

``python -m support.diverse_beams`` writes the file anew where a version up to 4.56 is installed.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from support.fake_batch_decoder import LENGTHS
from support.table_model import generate, make_table_model

VOCABULARY = 9
CONTEXT = 40
PADDING = VOCABULARY - 1
_FILE = Path(__file__).with_name("diverse_beams.json")
_CASES = 60


def read_cases() -> list[dict[str, Any]]:
    """Each with ``prompt``, ``seed``, ``spread``, ``settings``, and the ``tokens`` and ``scores`` of the answers."""
    cases: list[dict[str, Any]] = json.loads(_FILE.read_text("utf-8"))
    return cases


def table(seed: int, spread: float) -> NDArray[np.float32]:
    """Logits for ``TableDecoder``, from raw bits: the same with every version of numpy."""
    shape = (LENGTHS, VOCABULARY, VOCABULARY, VOCABULARY)
    bits = np.random.PCG64(seed).random_raw(int(np.prod(shape))) >> np.uint64(40)
    return (spread * (bits.astype(np.float32) / 2**23 - 1)).reshape(shape).astype(np.float32)


def _settings(chance: random.Random) -> dict[str, Any]:
    groups, size = chance.choice((2, 2, 3, 4)), chance.choice((1, 2, 2, 3))
    ends = chance.sample(range(VOCABULARY), chance.choice((0, 1, 1, 1, 2, 3)))
    settings: dict[str, Any] = {
        "num_beams": groups * size,
        "num_beam_groups": groups,
        "diversity_penalty": chance.choice((0.3, 1.0, 5.0)),
        "length_penalty": chance.choice((-1.0, 0.0, 0.6, 1.0, 2.0)),
        "early_stopping": chance.choice((True, False, "never")),
        "max_new_tokens": chance.randint(2, 14),
        "num_return_sequences": chance.randint(1, groups * size),
        "pad_token_id": chance.choice((PADDING, chance.randrange(VOCABULARY))),
        "eos_token_id": ends,
    }
    rare = {
        "no_repeat_ngram_size": chance.randint(2, 3),
        "repetition_penalty": chance.choice((0.8, 1.3)),
        "min_new_tokens": chance.randint(1, 2),
        "forced_bos_token_id": chance.randrange(VOCABULARY),
        "bad_words_ids": [[chance.randrange(VOCABULARY), chance.randrange(VOCABULARY)]],
    }
    settings |= {name: value for name, value in rare.items() if chance.random() < 0.25}
    if len(ends) == 1 and chance.random() < 0.2:
        settings["forced_eos_token_id"] = ends[0]
    return settings


def _write() -> None:
    chance = random.Random(5)
    model = make_table_model(VOCABULARY, CONTEXT)
    cases = []
    for seed in range(_CASES):
        settings, spread = _settings(chance), chance.choice((1.0, 3.0, 6.0))
        prompt = [chance.randrange(VOCABULARY) for _ in range(chance.randint(1, 4))]
        asked = settings if settings["eos_token_id"] else settings | {"eos_token_id": None}
        tokens, scores = generate(model, table(seed, spread), prompt, asked)
        case = {"prompt": prompt, "seed": seed, "spread": spread, "settings": settings}
        cases.append(case | {"tokens": tokens, "scores": [round(score, 5) for score in scores]})
    lines = ",\n".join(json.dumps(case) for case in cases)
    _FILE.write_text(f"[\n{lines}\n]\n", "utf-8")


if __name__ == "__main__":
    _write()
