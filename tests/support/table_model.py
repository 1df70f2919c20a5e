"""A model of transformers' with the logits of ``TableDecoder``, so that two searches can be compared step by step."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray
from support.fake_batch_decoder import LENGTHS


def make_table_model(vocab_size: int, context_length: int) -> Any:
    """The model; its ``table`` is to be set, see ``TableDecoder``."""
    import torch
    import transformers
    from transformers.modeling_outputs import CausalLMOutput

    logging.getLogger("transformers").setLevel(logging.ERROR)

    class TableModel(transformers.PreTrainedModel, transformers.GenerationMixin):  # type: ignore[misc]
        config_class = transformers.GPT2Config
        main_input_name = "input_ids"

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.anchor = torch.nn.Parameter(torch.zeros(1))
            self.table = torch.zeros(LENGTHS, vocab_size, vocab_size, vocab_size)

        def forward(self, input_ids: Any, **_: Any) -> Any:
            length = input_ids.shape[1]
            before = input_ids[:, [-2]] if length > 1 else input_ids[:, [-1]]
            return CausalLMOutput(logits=self.table[length % LENGTHS][before, input_ids[:, [-1]]])

        def prepare_inputs_for_generation(self, input_ids: Any, **_: Any) -> dict[str, Any]:
            return {"input_ids": input_ids}

    config = transformers.GPT2Config(vocab_size=vocab_size, n_positions=context_length, n_embd=8, n_head=1, n_layer=1)
    return TableModel(config)


def generate(
    model: Any, table: NDArray[np.float32], prompt: list[int], values: dict[str, Any]
) -> tuple[list[list[int]], list[float]]:
    """What transformers answers with these settings: tokens, padded to the longest, and scores."""
    import torch
    import transformers

    model.table = torch.from_numpy(table)
    # An empty file: what the model itself would have is not meant.
    model.generation_config = transformers.GenerationConfig(pad_token_id=values["pad_token_id"])
    config = transformers.GenerationConfig(**{"use_cache": False, **values})
    with torch.no_grad():
        out = model.generate(
            torch.tensor([prompt]),
            generation_config=config,
            return_dict_in_generate=True,
            output_scores=True,
            output_logits=True,
        )
    return out.sequences[:, len(prompt) :].tolist(), out.sequences_scores.tolist()
