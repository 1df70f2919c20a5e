"""The budget against the memory that processes really take: one model of random weights for each family."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.tokenizers import byte_level

from edgelm.bundle.manifest import Source
from edgelm_tools.export import export

pytestmark = [
    pytest.mark.reference,
    pytest.mark.skipif(sys.platform != "linux", reason="the constants are of Linux"),
]

_TOKENS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "vocab_size": 8000}
_DECODER = {"num_hidden_layers": 4, "num_attention_heads": 8, "hidden_size": 256, "max_position_embeddings": 4096}
_BART = {"decoder_start_token_id": 1, "max_position_embeddings": 1024, "d_model": 256, "encoder_ffn_dim": 1024}
_T5 = {"decoder_start_token_id": 2, "d_model": 256, "d_ff": 1024, "num_heads": 8, "num_layers": 4}
_BERT = {"num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 8, "intermediate_size": 1024}
_DEBERTA = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 256, "share_att_key": True}
# Model type, transformers' class, settings, and what is run: answers to a prompt, a batch, beams, or a batch of texts.
CASES: list[tuple[str, str, dict[str, Any], str]] = [
    ("llama", "AutoModelForCausalLM", _DECODER | {"intermediate_size": 704, "num_key_value_heads": 4}, "prompt"),
    ("gpt2", "AutoModelForCausalLM", _DECODER | {"n_inner": 1024}, "batch"),
    ("gpt_neox", "AutoModelForCausalLM", _DECODER | {"intermediate_size": 1024}, "prompt"),
    ("opt", "AutoModelForCausalLM", _DECODER | {"ffn_dim": 1024, "word_embed_proj_dim": 256}, "beams"),
    ("bloom", "AutoModelForCausalLM", {"n_layer": 4, "n_head": 8, "hidden_size": 256, "seq_length": 4096}, "prompt"),
    ("t5", "AutoModelForSeq2SeqLM", _T5, "prompt"),
    ("bart", "AutoModelForSeq2SeqLM", _BART | {"encoder_layers": 4, "decoder_layers": 4}, "beams"),
    ("bert", "AutoModel", _BERT, "texts"),
    ("mpnet", "AutoModel", _BERT | {"max_position_embeddings": 514}, "texts"),
    ("deberta-v2", "AutoModel", _BERT | _DEBERTA, "texts"),
]

_GENERATE = """
import sys
from pathlib import Path
import edgelm
from edgelm import generator
from edgelm.runtime.memory import budget_of, peak_memory

budgets = []
check = generator.check_answers
def noted(manifest, runtime, memory, draft, needs):
    budgets.append(budget_of(manifest, needs, prefill_chunk=runtime.prefill_chunk))
    check(manifest, runtime, memory, draft, needs)
generator.check_answers = noted

kind, prepack = sys.argv[2:]
settings = {"max_new_tokens": 16, "min_new_tokens": 16, "eos_token_id": []}
ids = [5 + 7 * n % 7000 for n in range({"prompt": 900, "batch": 150, "beams": 400}[kind])]
with edgelm.load(Path(sys.argv[1]), threads=2, prepack=bool(prepack)) as lm:
    if kind == "batch":
        lm.generate_batch([ids] * 16, **settings)
    else:
        lm.generate(ids, num_beams=4 if kind == "beams" else 1, **settings)
    print(peak_memory(), max(need.total for need in budgets), budgets[0].text)
"""
_ENCODE = """
import sys
from pathlib import Path
from edgelm.encoder_model import load_encoder
from edgelm.runtime.memory import peak_memory

with load_encoder(Path(sys.argv[1]), threads=2, prepack=bool(sys.argv[3]), max_memory="10GB") as model:
    text = " ".join("abcdefgh"[n % 8] for n in range(300))
    longest = min(510, len(model.encode([text], truncation=True)[0]))
    model.embed([text] * 16, truncation=True, batch_tokens=8 * longest)
    need = model.memory_budget(8 * longest, longest=longest)
    print(peak_memory(), need.total, need.text)
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str, dict[str, Any], str], Path]:
    transformers = pytest.importorskip("transformers")
    root = tmp_path_factory.mktemp("measured")

    def write(model_type: str, class_name: str, settings: dict[str, Any], scheme: str) -> Path:
        target = root / f"{model_type}-{scheme}"
        if not target.exists():
            checkpoint = root / model_type
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                config = transformers.AutoConfig.for_model(model_type, **_TOKENS | settings)
                getattr(transformers, class_name).from_config(config).save_pretrained(checkpoint)
            (checkpoint / "tokenizer.json").write_bytes(byte_level().to_str().encode())
            export(checkpoint, target, name=model_type, origin=Source("test"), scheme=scheme, report=False)
        return target

    return write


@pytest.mark.parametrize("prepack", ["", "prepacked"])
@pytest.mark.parametrize("scheme", ["int8", "fp32"])
@pytest.mark.parametrize(("model_type", "class_name", "settings", "kind"), CASES, ids=[case[0] for case in CASES])
def test_no_process_takes_more_than_its_budget(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bundle: Callable[[str, str, dict[str, Any], str], Path],
    model_type: str,
    class_name: str,
    settings: dict[str, Any],
    kind: str,
    scheme: str,
    prepack: str,
) -> None:
    monkeypatch.setenv("EDGELM_HOME", str(tmp_path / "home"))
    folder = bundle(model_type, class_name, settings, scheme)
    command = [sys.executable, "-c", _ENCODE if kind == "texts" else _GENERATE, str(folder), kind, prepack]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peak, budget, tokenizer = map(int, done.stdout.split())
    assert peak <= budget
    # The tokenizer of the test has a few hundred tokens, not as many as the vocabulary.
    assert budget - tokenizer <= 1.5 * peak
