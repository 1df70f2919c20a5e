"""No field of a configuration is passed over: what changes transformers' logits changes the record, or is refused."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import pytest
from support.gpt_checkpoints import GPT_VARIANTS
from support.tiny_checkpoints import VARIANTS, VOCABULARY, Variant, reference_model

from edgelm.errors import EdgeLMError
from edgelm_tools.architectures.gpt_spec import gpt_spec
from edgelm_tools.architectures.llama_members import MEMBERS as LLAMA
from edgelm_tools.architectures.llama_spec import llama_spec

pytestmark = pytest.mark.reference

# One of each model type.
CHOSEN = {variant.model_type: variant for variant in reversed((*VARIANTS, *GPT_VARIANTS))}
# What says how to compute, but not what.
_ASIDE = {"initializer_range", "init_std", "use_cache", "model_type"}
DIFFERENT = 1e-5


def other_values(value: Any) -> list[Any]:
    """Values that a field could have in place of this one."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [max(1, value // 2) if value > 1 else value + 1]
    if isinstance(value, float):
        return [3 * value + 0.5]
    if value is None:
        return [True, 3, 0.7]
    if isinstance(value, str):
        return ["relu" if value != "relu" else "gelu"]
    if isinstance(value, list) and all(isinstance(item, int) for item in value):
        return [[1 - item if item in (0, 1) else item + 1 for item in value]]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        kinds = {"full_attention": "sliding_attention", "sliding_attention": "full_attention"}
        return [[kinds.get(item, item) for item in value]]
    return []


def same_weights(model: Any, config: dict[str, Any]) -> Any:
    """transformers' model of another configuration with the same weights; None where it has others, or is none."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        made = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), attn_implementation="eager")
        names = made.load_state_dict(model.state_dict(), strict=False)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return None
    return None if names.missing_keys or names.unexpected_keys else made.to(torch.float32).eval()


def logits(model: Any) -> Any:
    import torch

    ids = torch.from_numpy(np.random.default_rng(1).integers(0, VOCABULARY, (1, 40)))
    with torch.no_grad():
        return model(ids, use_cache=False).logits.numpy()


def changes_ours(config: dict[str, Any], other: dict[str, Any]) -> bool:
    read = llama_spec if config["model_type"] in LLAMA else gpt_spec
    try:
        return read(other) != read(config)
    except EdgeLMError:
        return True


@pytest.mark.parametrize("variant", CHOSEN.values(), ids=str)
def test_a_field_that_changes_the_reference_is_honoured_or_refused(variant: Variant) -> None:
    from transformers import PretrainedConfig

    model = reference_model(variant)
    expected, config = logits(model), model.config.to_dict()
    fields = config.keys() - PretrainedConfig().to_dict().keys() - _ASIDE
    honoured = 0
    for name, value in [(field, other) for field in sorted(fields) for other in other_values(config[field])]:
        other = {**copy.deepcopy(config), name: value}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            changed = same_weights(model, other)
            try:
                differs = changed is not None and np.abs(logits(changed) - expected).max() > DIFFERENT
            except (LookupError, RuntimeError, TypeError, ValueError):  # it cannot be computed at all
                continue
        if differs:
            honoured += 1
            assert changes_ours(config, other), f"{name}: {value!r} in place of {config[name]!r}"
    assert honoured
