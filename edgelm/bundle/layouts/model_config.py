"""What a Hugging Face ``config.json`` says of a model, as far as the graphs themselves do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgelm.bundle.fields import Fields
from edgelm.bundle.manifest import MAX_CONTEXT, MAX_EOS_TOKENS, MAX_LABELS, MAX_VOCAB, Head
from edgelm.bundle.manifest_parts import PROBLEM_TYPES
from edgelm.config import GenerationConfig
from edgelm.errors import ManifestError

CONFIG_NAME = "config.json"
GENERATION_NAME = "generation_config.json"

# Where nothing limits the positions of a model: what a request may ask for.
_UNLIMITED = 2048
_MAX_SIZE = 1 << 20
_POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")
# Relative positions have no end, and ``n_positions`` tells only what the model was trained on.
_ENDLESS = ("t5", "mt5", "umt5", "longt5")
# Their first position is the one behind the padding token's.
_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "data2vec-text", "longformer")
_CAUSAL = ("ForCausalLM", "LMHeadModel")
# Older checkpoints keep these in ``config.json``, and transformers reads them there.
GENERATION_FIELDS = ("bos_token_id", *(name for name in GenerationConfig.field_names() if name != "seed"))
# What transformers' own defaults are: older files state them without meaning anything by it.
_MEANINGLESS = {"max_length": 20, "top_k": 50}


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Sizes and labels; None where the file does not tell. ``has_positions``: something limits the context."""

    architecture: str
    vocab_size: int | None
    context_length: int
    has_positions: bool
    heads: int | None
    head_size: int | None
    head: Head | None


def family_of(config: Mapping[str, Any]) -> str:
    """``decoder``, ``encoder`` or ``encoder-decoder``, by the names of the model's classes."""
    if config.get("is_encoder_decoder") is True:
        return "encoder-decoder"
    names = config.get("architectures")
    classes = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    return "decoder" if any(name.endswith(_CAUSAL) for name in classes) else "encoder"


def generation_settings(config: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of ``generation_config.json``; where there are none, those that ``config.json`` has, as in
    transformers.
    """
    if given:
        return dict(given)
    known = {name: config[name] for name in GENERATION_FIELDS if config.get(name) is not None}
    return {name: value for name, value in known.items() if _MEANINGLESS.get(name) != value}


def model_facts(config: Mapping[str, Any], family: str) -> ModelFacts:
    """Reads a configuration.

    Raises:
        ManifestError: a field breaks its rule; names it.
    """
    if not isinstance(config, dict):
        raise ManifestError(f"{CONFIG_NAME}: must be an object")
    fields = Fields(config, document=CONFIG_NAME)
    kind = fields.text("model_type") if fields.has("model_type") else "unknown"
    heads = _first(fields, ("num_key_value_heads", "num_attention_heads", "decoder_attention_heads", "n_head"))
    width = _first(fields, ("hidden_size", "d_model", "n_embd"))
    queries = _first(fields, ("num_attention_heads", "decoder_attention_heads", "n_head"))
    head_size = _first(fields, ("head_dim", "d_kv"))
    if head_size is None and width is not None and queries is not None:
        head_size = width // queries
    return ModelFacts(
        architecture=kind,
        vocab_size=fields.integer("vocab_size", 1, MAX_VOCAB) if fields.has("vocab_size") else None,
        context_length=_context_length(fields, kind, family),
        has_positions=bool(_position_field(fields, kind)),
        heads=heads,
        head_size=head_size,
        head=_head(fields) if family == "encoder" else None,
    )


def special_token(fields: Fields, name: str, vocab_size: int) -> int | None:
    """A token's id; a negative one stands for none."""
    if not fields.has(name):
        return None
    token = fields.integer(name, -1, vocab_size - 1)
    return token if token >= 0 else None


def end_tokens(fields: Fields, vocab_size: int) -> tuple[int, ...]:
    """``eos_token_id``: one, several, or none."""
    if not fields.has("eos_token_id"):
        return ()
    if isinstance(fields.value("eos_token_id"), list):
        return fields.integers("eos_token_id", 0, vocab_size - 1, most=MAX_EOS_TOKENS)
    token = special_token(fields, "eos_token_id", vocab_size)
    return () if token is None else (token,)


def _first(fields: Fields, names: tuple[str, ...]) -> int | None:
    return next((fields.integer(name, 1, _MAX_SIZE) for name in names if fields.has(name)), None)


def _position_field(fields: Fields, kind: str) -> str | None:
    """The field that limits the positions; None: nothing does."""
    return None if kind in _ENDLESS else next((name for name in _POSITIONS if fields.has(name)), None)


def _context_length(fields: Fields, kind: str, family: str) -> int:
    named = _position_field(fields, kind)
    if named is None:
        return _UNLIMITED
    positions = fields.integer(named, 1, MAX_CONTEXT)
    if family == "encoder" and kind in _OFFSET_POSITIONS:
        first = (
            2 if kind == "mpnet" or not fields.has("pad_token_id") else fields.integer("pad_token_id", 0, MAX_VOCAB) + 1
        )
        if positions <= first:
            raise fields.fault(named, f"is {positions}, but the first position is {first}")
        positions -= first
    return positions


def _head(fields: Fields) -> Head | None:
    """The labels in the order of their ids; transformers writes two for models that have no head at all."""
    if not fields.has("id2label"):
        return None
    labels = fields.object("id2label")
    by_id = {name: labels.text(name) for name in labels}
    ids = [str(number) for number in range(len(by_id))]
    if set(ids) != by_id.keys() or len(ids) > MAX_LABELS:
        raise fields.fault("id2label", f"must have the ids from 0 to {len(ids) - 1}, each once")
    problem = fields.choice("problem_type", PROBLEM_TYPES) if fields.has("problem_type") else None
    return Head(tuple(by_id[number] for number in ids), problem or PROBLEM_TYPES[0])
