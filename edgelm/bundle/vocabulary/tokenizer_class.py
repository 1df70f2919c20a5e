"""Which of transformers' tokenizers a checkpoint's older files belong to: models of one type have several.

Japanese BERT's, for one, cut texts into words by a dictionary, but have a ``vocab.txt`` as all BERTs do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Names that say nothing of how a text is cut.
_GENERIC = ("", "PreTrainedTokenizer", "TokenizersBackend")
_USUAL = {
    "bart": "BartTokenizer",
    "bert": "BertTokenizer",
    "camembert": "CamembertTokenizer",
    "deberta-v2": "DebertaV2Tokenizer",
    "distilbert": "DistilBertTokenizer",
    "electra": "ElectraTokenizer",
    "gpt2": "GPT2Tokenizer",
    "gpt_neo": "GPT2Tokenizer",
    "gptj": "GPT2Tokenizer",
    "m2m_100": "M2M100Tokenizer",
    "marian": "MarianTokenizer",
    "mbart": "MBartTokenizer",
    "mpnet": "MPNetTokenizer",
    "mt5": "T5Tokenizer",
    "opt": "GPT2Tokenizer",
    "pegasus": "PegasusTokenizer",
    "roberta": "RobertaTokenizer",
    "t5": "T5Tokenizer",
    "umt5": "T5Tokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
}


def tokenizer_class(config: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """The class that a checkpoint names, or that its model type usually has, without ``Fast``; "": not known.

    Args:
        config: of ``config.json``.
        settings: of ``tokenizer_config.json``, which comes first.
    """
    for source in (settings, config):
        name = str(source.get("tokenizer_class") or "").removesuffix("Fast")
        if name not in _GENERIC:
            return name
    return _USUAL.get(str(config.get("model_type")), "")
