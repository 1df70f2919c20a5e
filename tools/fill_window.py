"""Fills a model's context window and says what memory that took: what a process of ``benchmark_memory`` does.

It loads no more than an application would that embeds EdgeLM.
"""

from __future__ import annotations

import json
import time

from edgelm.errors import MemoryLimitError
from edgelm.language_model import load
from edgelm.runtime.memory import peak_memory

NEW_TOKENS = 16


def fill_window(request: str) -> None:
    """Loads a model, answers a prompt that leaves room for a short answer, and prints what that took as JSON.

    Args:
        request: JSON, the arguments of ``load``.
    """
    asked = json.loads(request)
    try:
        lm = load(**asked)
    except MemoryLimitError as error:
        print(json.dumps({"refusal": str(error), "at": time.time()}))
        return
    with lm:
        at = time.time()
        vocabulary = lm.bundle.manifest.vocab_size
        prompt = [5 + 7 * place % (vocabulary - 5) for place in range(lm.context_length - NEW_TOKENS)]
        lm.generate(prompt, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, eos_token_id=[])
        told = {"estimate": lm.fitting.need.total, "peak": peak_memory(), "changed": lm.fitting.changed, "at": at}
        print(json.dumps(told))
