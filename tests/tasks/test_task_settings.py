"""What a caller's settings replace of those that a checkpoint's authors suggest."""

from __future__ import annotations

import pytest

from edgelm.tasks.task_settings import Suggestion

BEAMS = {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5, "early_stopping": True, "length_penalty": 2.0}
SUGGESTION = Suggestion("summarize: ", {"max_length": 20, "min_length": 5, **BEAMS})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, SUGGESTION.settings),
        ({"num_beams": 1}, {"max_length": 20, "min_length": 5, "num_beams": 1}),
        ({"num_beams": 6}, {**SUGGESTION.settings, "num_beams": 6}),
        ({"max_new_tokens": 9}, {**BEAMS, "max_new_tokens": 9}),
        # Beams and sampling hold together, as in transformers.
        ({"do_sample": True}, {**SUGGESTION.settings, "do_sample": True}),
    ],
)
def test_a_callers_settings_come_on_top(given, expected):
    assert SUGGESTION.under(given) == expected
