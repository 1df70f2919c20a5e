"""Settings that do not go together are refused before a model is looked for, and so before one is fetched."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from click.testing import Result

from edgelm.cli.generation_options import check_together
from edgelm.runtime.cores import available_cores

Invoke = Callable[..., Result]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("run", "none", "a", "--min-new-tokens", "50", "-n", "10"),
            "min_new_tokens (50) is above max_new_tokens (10)",
        ),
        (("run", "none", "a", "--num-beam-groups", "2"), "num_beam_groups (2) needs a diversity_penalty above 0"),
        (("run", "none", "a", "--prompt-lookup", "--num-beams", "3"), "prompt_lookup_num_tokens is for answers made"),
        (("chat", "none", "--max-time", "3", "--num-beams", "3"), "max_time is for answers made token by token"),
        (("explain", "none", "a", "--set", "num_beams=0"), "num_beams must be at least 1"),
        (("run", "none", "a", "--set", "num_return_sequences=2"), "for several: edgelm compare --seeds 2"),
        (("run", "none", "a", "--top-logprobs", "2"), "top_logprobs is printed by --json alone"),
        (("chat", "none", "--set", "logprobs=on"), "logprobs is printed by edgelm run --json alone"),
        (("summarize", "none", "a", "--top-logprobs", "2"), "top_logprobs is printed by edgelm run --json alone"),
        (
            ("compare", "none", "-p", "a", "--grid", "temperature=0.2,0.7", "--temperature", "1"),
            "--grid temperature is given, and temperature for all, too",
        ),
        (
            ("compare", "none", "-p", "a", "--grid", "max_new_tokens=60,4", "--min-new-tokens", "5"),
            "min_new_tokens (5) is above max_new_tokens (4)",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_refused_at_once(invoke: Invoke, arguments: tuple[str, ...], words: str) -> None:
    done = invoke(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert words in done.stderr


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beam_groups": 2, "diversity_penalty": 1.0},
        {"diversity_penalty": 1.0},
        {"num_beams": 6, "diversity_penalty": 1.0},
        {"logit_bias": {"some text": -1.0}, "negative_prompt": "a", "choices": ("a", "b")},
    ],
    ids=str,
)
def test_what_a_model_may_complete_is_left_to_it(settings: dict[str, object]) -> None:
    check_together(settings)


def test_a_grid_may_complete_what_is_given_for_all(invoke: Invoke) -> None:
    done = invoke("compare", "tiny", "-p", "a", "-n", "2", "--grid", "num_beams=2,4", "--set", "early_stopping=true")
    assert done.exit_code == 0, done.stderr


def test_more_threads_than_cores_are_told(invoke: Invoke) -> None:
    many = available_cores() + 1
    done = invoke("run", "tiny", "a", "-n", "1", "-t", str(many))
    assert done.exit_code == 0
    assert f"warning: {many} threads on {available_cores()} core" in done.stderr
    assert "warning" not in invoke("run", "tiny", "a", "-n", "1", "-t", "1").stderr
