"""Batches of the real model: prompts of many lengths answered at a time, as one by one."""

from __future__ import annotations

import edgelm
from edgelm_tools.benchmark_batches import prompts_of_many_lengths

NEW_TOKENS = 32


def test_fp32_answers_of_a_batch_are_those_one_by_one(fp32: edgelm.LanguageModel) -> None:
    prompts = [fp32.encode_chat([{"role": "user", "content": text}]) for text in prompts_of_many_lengths(8)]
    assert len({len(ids) for ids in prompts}) > 5
    together = fp32.generate_batch(prompts, max_new_tokens=NEW_TOKENS)
    for ids, answer in zip(prompts, together, strict=True):
        assert answer.token_ids == fp32.generate(ids, max_new_tokens=NEW_TOKENS).token_ids
