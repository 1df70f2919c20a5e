"""The fp32 bundle chooses the tokens that transformers chooses, from the same GGUF file.

Token ids go in and come out, so that tokenizers play no part. The reference reads each of our answers in one pass: as
long as every token of it is the one that the reference would have chosen after the same beginning, greedy decoding
with the reference gives that very answer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import edgelm
from edgelm_tools.quality import evaluation_text

NEW_TOKENS = 64
# Where the reference's two best logits are closer than this, either may win: sums are taken in another order.
TIE = 1e-3
MOST_EXCUSED = 2

TEXTS = (
    "The",
    "Once upon a time, in a village by the sea,",
    "The three most important inventions of the nineteenth century are",
    "def fibonacci(n):\n    ",
    "SELECT name, price FROM products WHERE",
    "1, 2, 3, 5, 8, 13, 21,",
    "In 1969, 600 million people watched",
    "Q: How many legs does a spider have?\nA:",
    "Il était une fois une petite fille qui",
    "Der schnelle braune Fuchs",
    "日本の首都は",
    "🦙 and 🐍 are",
    '{"name": "Ada", "born":',
    "# Shopping list\n\n- apples\n-",
    "   \n\n\t",
    "THE QUICK BROWN FOX JUMPS OVER",
)
QUESTIONS = (
    "What is the capital of France?",
    "Explain gravity to a child.",
    "Write a haiku about autumn rain.",
)
LONG_PROMPT_TOKENS = 600  # more than one chunk of prefill

pytestmark = [
    pytest.mark.reference,
    # transformers and torch warn about themselves
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        str(checkpoint.parent), gguf_file=checkpoint.name, dtype=torch.float32, attn_implementation="eager"
    )
    return model.eval()


def prompts(lm: edgelm.LanguageModel) -> list[list[int]]:
    texts = [lm.tokenizer.encode(text) for text in TEXTS]
    questions = [lm.encode_chat([{"role": "user", "content": question}]) for question in QUESTIONS]
    return [*texts, *questions, lm.tokenizer.encode(evaluation_text())[:LONG_PROMPT_TOKENS]]


def first_difference(reference: Any, prompt: list[int], answer: tuple[int, ...]) -> tuple[int, float] | None:
    """Where the reference would have chosen another token, and how close its two best logits are there."""
    import torch

    with torch.inference_mode():
        logits = reference(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
    different = (logits.argmax(dim=-1) != torch.tensor(answer)).nonzero().flatten().tolist()
    if not different:
        return None
    best = logits[different[0]].topk(2).values
    return different[0], float(best[0] - best[1])


def test_greedy_tokens_are_those_of_transformers(fp32: edgelm.LanguageModel, reference: Any) -> None:
    asked = prompts(fp32)
    assert len(asked) == 20
    excused, wrong, compared = [], [], 0
    for index, prompt in enumerate(asked):
        answer = fp32.generate(prompt, max_new_tokens=NEW_TOKENS).token_ids
        difference = first_difference(reference, prompt, answer)
        if difference is None:
            compared += len(answer)
            continue
        step, gap = difference
        compared += step
        (excused if gap < TIE else wrong).append(f"prompt {index}, token {step}: gap {gap:.2e}")
    print(f"{compared} tokens of {len(asked)} answers are the reference's; ties: {excused or 'none'}")  # noqa: T201
    assert wrong == []
    assert len(excused) <= MOST_EXCUSED


def test_decoding_with_the_reference_gives_the_same_answer(fp32: edgelm.LanguageModel, reference: Any) -> None:
    import torch

    prompt = fp32.encode_chat([{"role": "user", "content": QUESTIONS[1]}])
    ours = fp32.generate(prompt, max_new_tokens=16).token_ids
    ids = torch.tensor([prompt])
    theirs = reference.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False)
    assert list(ours) == theirs[0, len(prompt) :].tolist()
