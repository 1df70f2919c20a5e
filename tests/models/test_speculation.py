"""Guessing ahead with the real model: what it answers, and how many runs it saves."""

from __future__ import annotations

import numpy as np

import edgelm
from edgelm_tools.guessing_prompts import PROMPTS

# As many prompts as the benchmark has, and some more of its passages: 50 in all.
TASKS = ("Copy this text: {}", "Summarize: {}", "List the names and numbers in this text. {}", "Correct this: {}")
NEW_TOKENS = 24
# What rounding of one row and of several has differed by at most; two tokens may be that near to each other.
NEAR_TIE = 1.0


def prompts() -> list[str]:
    asked = [prompt for _, prompt in PROMPTS]
    copying = [prompt for work, prompt in PROMPTS if work == "copying"]
    return [*asked, *(task.format(prompt) for task in TASKS for prompt in copying)][:50]


def ids_of(lm: edgelm.LanguageModel, prompt: str) -> list[int]:
    return lm.encode_chat([{"role": "user", "content": prompt}])


def test_fp32_answers_are_the_same_with_guesses(fp32: edgelm.LanguageModel) -> None:
    guesses = right = 0
    for prompt in prompts():
        ids = ids_of(fp32, prompt)
        plain = fp32.generate(ids, max_new_tokens=NEW_TOKENS)
        guessing = fp32.generate(ids, max_new_tokens=NEW_TOKENS, prompt_lookup_num_tokens=16)
        assert guessing.token_ids == plain.token_ids, prompt
        guesses += guessing.timings.draft_n
        right += guessing.timings.draft_n_accepted
    assert right > guesses / 2 > 100


def test_int8_answers_part_at_near_ties_only(int8: edgelm.LanguageModel) -> None:
    for prompt in prompts()[:20]:
        ids = ids_of(int8, prompt)
        plain = int8.generate(ids, max_new_tokens=NEW_TOKENS).token_ids
        guessing = int8.generate(ids, max_new_tokens=NEW_TOKENS, prompt_lookup_num_tokens=16).token_ids
        if guessing == plain:
            continue
        parting = next(place for place, pair in enumerate(zip(plain, guessing, strict=False)) if len(set(pair)) > 1)
        decoder = int8.new_decoder()
        logits = decoder.prefill([*ids, *plain[:parting]])
        assert abs(logits[plain[parting]] - logits[guessing[parting]]) < NEAR_TIE, prompt
        assert np.sort(logits)[-1] - logits[plain[parting]] < NEAR_TIE


def test_int8_guesses_for_fp32_and_changes_nothing(fp32: edgelm.LanguageModel, int8: edgelm.LanguageModel) -> None:
    with edgelm.load(fp32.bundle.folder, draft=int8) as lm:
        for prompt in prompts()[::10]:
            ids = ids_of(lm, prompt)
            guessing = lm.generate(ids, max_new_tokens=NEW_TOKENS)
            assert guessing.token_ids == fp32.generate(ids, max_new_tokens=NEW_TOKENS).token_ids
            assert guessing.timings.draft_n_accepted > guessing.usage.completion_tokens / 2
