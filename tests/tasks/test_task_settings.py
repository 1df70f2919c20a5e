"""What a caller's settings replace of those that a checkpoint's authors suggest."""

from __future__ import annotations

import pytest

from edgelm.config import GenerationConfig
from edgelm.errors import ConfigError
from edgelm.tasks.task_settings import Suggestion, own_limit

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


@pytest.mark.parametrize(
    ("settings", "own", "expected"),
    [
        ({}, {}, 26),
        ({"min_new_tokens": 9}, {}, 26),
        ({"min_new_tokens": 40}, {"max_length": 30}, 40),
        ({"min_length": 41}, {"max_new_tokens": 30}, 40),
        ({"min_new_tokens": 40, "min_length": 60}, {}, 40),
        ({}, {"min_new_tokens": 40}, 40),
        ({"min_new_tokens": 30}, {"min_new_tokens": 40}, 30),
        ({"min_length": 31}, {"min_new_tokens": 40}, 30),
        ({"generation_config": GenerationConfig(min_new_tokens=30)}, {"min_new_tokens": 40}, 30),
        ({"generation_config": GenerationConfig(min_new_tokens=30), "min_new_tokens": 40}, {}, 40),
    ],
)
def test_a_tasks_own_limit_leaves_room_for_the_fewest_tokens(settings, own, expected):
    assert own_limit(26, settings, GenerationConfig(**own)) == expected


def test_the_fewest_tokens_are_a_number():
    with pytest.raises(ConfigError, match="min_new_tokens must be an integer, not 'many'"):
        own_limit(26, {"min_new_tokens": "many"}, GenerationConfig())
