"""The options of generation; their names and disabled values are those of other runtimes.

A value out of range is a usage error with the words of ``GenerationConfig``, which alone knows the ranges.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import click

from edgelm.cli.options import Decorator, option, refuse_out_of_range, with_options
from edgelm.cli.typed_settings import setting_name, setting_value
from edgelm.config import MOST_GUESSES, OVERFLOW_POLICIES, GenerationConfig
from edgelm.errors import ConfigError

_ANSWER = "Answer"


def generation_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the flags of ``GenerationConfig``; the function gets those that were given as ``generation``.

    What contradicts itself is refused before the function is called, and so before a model is fetched.
    """

    @functools.wraps(function)
    def checked(*, generation: dict[str, Any], **values: Any) -> Any:
        check_together(generation)
        return function(generation=generation, **values)

    return unchecked_generation_options(checked)


def unchecked_generation_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """``generation_options`` that are a part of the settings: whether all go together is for the caller to check."""

    @functools.wraps(function)
    def collected(**values: Any) -> Any:
        given = {name: values.pop(name) for name in _GENERATION_NAMES}
        settings = {name: value for name, value in given.items() if value not in (None, ())}
        for name, value in values.pop("others"):
            if name in settings:
                raise click.UsageError(f"{name} is given twice, as --set {name} and before; give one of them")
            settings[name] = value
        if "do_sample" not in settings and implies_sampling(settings):
            settings["do_sample"] = True
        return function(generation=settings, **values)

    return with_options(collected, _GENERATION_OPTIONS)


def check_together(settings: Mapping[str, Any]) -> None:
    """Refuses settings that contradict each other, whatever the defaults of the model are.

    Raises:
        ConfigError: they do, or one is out of range.
        click.UsageError: they ask for several answers, of which a command prints one.
    """
    answers = settings.get("num_return_sequences", 1)
    if answers > 1:
        raise click.UsageError(
            f"num_return_sequences ({answers}): one answer is printed; for several: edgelm compare --seeds {answers}"
        )
    own = {name: value for name, value in settings.items() if name in GenerationConfig.field_names()}
    if isinstance(own.get("logit_bias"), Mapping):  # tokens by their text are for the model to find
        del own["logit_bias"]
    # Beams and groups may be the model's.
    if own.get("num_beam_groups", 1) > 1:
        own.setdefault("num_beams", own["num_beam_groups"])
    elif own.get("diversity_penalty", 0) > 0 and "num_beam_groups" not in own:
        own["num_beam_groups"] = own.setdefault("num_beams", 2)
        own.pop("do_sample", None)
    GenerationConfig(**own)


def refuse_unseen_logprobs(settings: Mapping[str, Any], where: str) -> None:
    """Refuses log probabilities, which nobody would see.

    Raises:
        click.UsageError: they are asked for; tells ``where`` they can be seen.
    """
    for name in ("top_logprobs", "logprobs"):
        if settings.get(name):
            raise click.UsageError(f"{name} is printed by {where} alone")


def implies_sampling(settings: dict[str, Any]) -> bool:
    """Whether these settings, given on the command line, ask for sampling; at its disabled value none does."""
    return (
        settings.get("temperature", 0) > 0
        or settings.get("top_k", 0) > 0
        or settings.get("top_p", 1.0) < 1.0
        or settings.get("typical_p", 1.0) < 1.0
        or any(settings.get(name, 0.0) > 0.0 for name in ("min_p", "epsilon_cutoff", "eta_cutoff", "top_n_sigma"))
    )


def _checked(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """A generation setting, if ``GenerationConfig`` takes it."""
    if value is None:
        return None
    name = str(parameter.name)
    settings = {name: value}
    # Whether it fits the others, which it is nothing without, is known only to the model.
    if name == "min_new_tokens":
        settings["max_new_tokens"] = max(1, value)
    elif name == "num_beam_groups":
        settings |= {"num_beams": max(1, value), "diversity_penalty": float(value > 1)}
    elif name == "diversity_penalty" and value > 0:
        settings |= {"num_beams": 2, "num_beam_groups": 2}
    refuse_out_of_range(GenerationConfig, settings)
    return value


def _biases(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, float] | None:
    """Text or id of a token → bias."""
    biases = {}
    for value in values:
        token, _, bias = value.rpartition("=")
        if not token:
            raise click.BadParameter(f"{value!r:.80} is not of the form TOKEN=BIAS, such as 15043=-100")
        try:
            biases[token] = float(bias)
        except ValueError:
            raise click.BadParameter(f"the bias of {token!r:.80} is no number: {bias!r:.80}") from None
    return biases or None


def _others(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> list[tuple[str, Any]]:
    settings = []
    for value in values:
        name, equals, text = value.partition("=")
        if not equals:
            raise click.BadParameter(f"{value!r:.80} is not of the form NAME=VALUE, such as eta_cutoff=0.0003")
        try:
            name = setting_name(name)
            settings.append((name, setting_value(name, text)))
        except ConfigError as error:
            raise click.BadParameter(str(error)) from None
    return settings


def _setting(*declarations: str, **settings: Any) -> Decorator:
    return option(_ANSWER, *declarations, callback=_checked, **settings)


_GENERATION_NAMES = (
    "max_new_tokens",
    "min_new_tokens",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "num_beams",
    "num_beam_groups",
    "diversity_penalty",
    "length_penalty",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "no_repeat_ngram_size",
    "logit_bias",
    "stop_strings",
    "guidance_scale",
    "negative_prompt",
    "max_time",
    "top_logprobs",
    "prompt_lookup_num_tokens",
    "overflow",
    "seed",
)
_GENERATION_OPTIONS = (
    _setting(
        "-n",
        "--max-new-tokens",
        "--max-tokens",
        "max_new_tokens",
        type=int,
        metavar="N",
        help="Most tokens of the answer.  [512, if the model says nothing else]",
    ),
    _setting("--min-new-tokens", type=int, metavar="N", help="Fewest tokens of the answer.  [0: off]"),
    option(
        _ANSWER, "--do-sample/--greedy", default=None, help="Draw tokens at random, or take the likeliest each time."
    ),
    _setting(
        "--temperature",
        "--temp",
        "temperature",
        type=float,
        metavar="X",
        help="Flattens (> 1) or sharpens (< 1); samples. 0: greedy.",
    ),
    _setting("--top-k", type=int, metavar="N", help="Sample among the K likeliest.  [0: off]"),
    _setting("--top-p", type=float, metavar="X", help="Sample among the likeliest that have P together.  [1: off]"),
    _setting(
        "--min-p",
        type=float,
        metavar="X",
        help="Sample among those at least P times as likely as the likeliest.  [0: off]",
    ),
    _setting(
        "--typical-p", type=float, metavar="X", help="Sample among the most typical that have P together.  [1: off]"
    ),
    _setting(
        "--num-beams",
        type=int,
        metavar="N",
        help="Search for the likeliest answer with N beams; or draw, when sampling.  [1: off]",
    ),
    _setting("--num-beam-groups", type=int, metavar="N", help="Part the beams into N groups that differ.  [1: off]"),
    _setting("--diversity-penalty", type=float, metavar="X", help="How much groups differ; they need it.  [0: off]"),
    _setting("--length-penalty", type=float, metavar="X", help="With beams: favours long (> 0) or short answers.  [1]"),
    _setting(
        "--repetition-penalty",
        "--repeat-penalty",
        "repetition_penalty",
        type=float,
        metavar="X",
        help="Makes tokens that were used less likely (> 1).  [1: off]",
    ),
    _setting(
        "--presence-penalty", type=float, metavar="X", help="Taken from each token that the answer has.  [0: off]"
    ),
    _setting("--frequency-penalty", type=float, metavar="X", help="Taken from tokens as often as they came.  [0: off]"),
    _setting("--no-repeat-ngram-size", type=int, metavar="N", help="Say no N tokens in a row twice.  [0: off]"),
    option(
        _ANSWER,
        "-l",
        "--logit-bias",
        "logit_bias",
        multiple=True,
        metavar="TOKEN=B",
        callback=_biases,
        help="Make a token (its text, or its id) likelier or less likely; -inf: never. Spaces belong to a token: "
        "' Tokyo=-inf' within a sentence. Of a text of several tokens, the last is biased behind the others "
        "(sequence_bias). May be repeated.",
    ),
    _setting("--stop", "stop_strings", multiple=True, metavar="TEXT", help="End before this text; may be repeated."),
    _setting(
        "--guidance-scale", type=float, metavar="X", help="Follow the prompt more (> 1) or less closely.  [1: off]"
    ),
    option(_ANSWER, "--negative-prompt", metavar="TEXT", help="With --guidance-scale: what to be led away from."),
    _setting("--max-time", type=float, metavar="S", help="End after so many seconds."),
    _setting("--top-logprobs", type=int, metavar="N", help="With --json: log probabilities of the N likeliest.  [0]"),
    option(
        _ANSWER,
        "--prompt-lookup",
        "prompt_lookup_num_tokens",
        flag_value=MOST_GUESSES,
        type=int,
        help="Guess what comes from the prompt: faster where the answer copies from it.",
    ),
    _setting(
        "--overflow",
        type=click.Choice(OVERFLOW_POLICIES),
        help="What to do past the context window: refuse, leave out a chat's oldest turns, or keep its first tokens "
        "and slide over the others.  [refuse]",
    ),
    _setting("--seed", type=int, metavar="N", help="The same seed gives the same answer."),
    option(
        _ANSWER,
        "--set",
        "others",
        multiple=True,
        metavar="NAME=VALUE",
        callback=_others,
        help="Any other setting of generation, such as eta_cutoff=0.0003; lists as JSON. May be repeated.",
    ),
)
