"""What a caller puts into a generation of their own: functions that change logits, functions that end answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from edgelm.errors import ConfigError
from edgelm.generation.logits_processors import LogitsProcessor
from edgelm.generation.observer import Observer
from edgelm.generation.stopping import StoppingCriterion


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Hooks:
    """A caller's part in a generation; the names are transformers'.

    Attributes:
        logits_processor: run after the built-in penalties and before the warpers.
        stopping_criteria: each may end the answer with ``stop``, behind the newest token.
        observer: told how the tokens of one answer are chosen; not transformers'.
        negative_prompt: (T,) ids of what ``guidance_scale`` leads away from; None: the prompt's last token.
        guidance: what becomes of them, for one answer; it comes before all other processors.
    """

    logits_processor: tuple[LogitsProcessor, ...] = ()
    stopping_criteria: tuple[StoppingCriterion, ...] = ()
    observer: Observer | None = None
    negative_prompt: Sequence[int] | None = None
    guidance: LogitsProcessor | None = None

    @classmethod
    def split(cls, settings: Mapping[str, Any]) -> tuple[Self, dict[str, Any]]:
        """The hooks among the arguments of a call, each one function or several, and the other arguments.

        Raises:
            ConfigError: something cannot be called; names it.
        """
        names = ("logits_processor", "stopping_criteria")
        others = {name: value for name, value in settings.items() if name not in names}
        processors, criteria = (_functions(name, settings.get(name)) for name in names)
        return cls(logits_processor=processors, stopping_criteria=criteria), others

    def with_processor(self, processor: LogitsProcessor) -> Self:
        """These and one more logits processor, behind the others."""
        return replace(self, logits_processor=(*self.logits_processor, processor))


NO_HOOKS = Hooks()


def _functions(name: str, value: object) -> tuple[Callable[..., Any], ...]:
    several = () if value is None else value if isinstance(value, Iterable) else (value,)
    functions = tuple(several)
    for function in functions:
        if not callable(function):
            raise ConfigError(f"{name} must be functions of (ids, logits), not {function!r:.80}")
    return functions
