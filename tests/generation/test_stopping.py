from __future__ import annotations

import json

import numpy as np

from edgelm.generation.stopping import FinishReason, any_of, stop_at_tokens

LOGITS = np.zeros(4, np.float32)


def ids(*values):
    return np.array(values, np.int64)


def test_finish_reasons_are_the_words_of_the_interfaces():
    assert json.dumps(list(FinishReason)) == '["stop", "length"]'


def test_stop_at_tokens_looks_at_the_newest_only():
    criterion = stop_at_tokens((2, 3))
    assert criterion(ids(0, 2), LOGITS)
    assert criterion(ids(3), LOGITS)
    assert not criterion(ids(2, 3, 1), LOGITS)
    assert not stop_at_tokens(())(ids(0), LOGITS)


def test_any_of_asks_in_order_until_one_is_met():
    asked = []

    def criterion(name, answer):
        def ask(ids, logits):
            asked.append((name, ids.tolist(), logits is LOGITS))
            return answer

        return ask

    assert any_of([criterion("a", False), criterion("b", True), criterion("c", True)])(ids(7), LOGITS)
    assert asked == [("a", [7], True), ("b", [7], True)]
    assert not any_of([])(ids(7), LOGITS)
