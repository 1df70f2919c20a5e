"""``edgelm attention``: entropies as a table, maps as JSON, a page, a picture."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from support.attention_bundles import ENCODER_HEADS, HEADS, LAYERS, write_inspected_decoder, write_inspected_encoder
from support.marian_files import write_bergamot

from edgelm.bundle.manifest import Source
from edgelm_tools.export import export

Invoke = Callable[..., Result]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("bundles")
    checkpoint = write_bergamot(root / "checkpoint")
    export(checkpoint, root / "both", name="both", origin=Source("test"), scheme="fp32", report=False)
    return {
        "decoder": str(write_inspected_decoder(root / "decoder")),
        "encoder": str(write_inspected_encoder(root / "encoder")),
        "both": str(root / "both"),
    }


def test_a_table_of_entropies(invoke: Invoke, models: dict[str, str]) -> None:
    done = invoke("attention", models["decoder"], "ab c", "--no-prepack")
    assert done.exit_code == 0, done.stderr
    title, header, *rows = done.stdout.splitlines()
    assert title == "decoder: 4 x 4 tokens, entropy in bits"
    assert header.split() == ["layer", *(word for head in range(HEADS) for word in ("head", str(head)))]
    numbers = np.array([[float(cell) for cell in row.split()] for row in rows])
    assert numbers[:, 0].tolist() == list(range(LAYERS))
    assert ((numbers[:, 1:] >= 0) & (numbers[:, 1:] <= 2)).all()


def test_json(invoke: Invoke, models: dict[str, str]) -> None:
    done = invoke("attention", models["decoder"], "ab c", "-n", "3", "--layer", "0,2-2", "--head", "1-3", "--json")
    found = json.loads(done.stdout)
    (one,) = found["maps"]
    assert (one["layers"], one["heads"], one["kind"]) == ([0, 2], [1, 2, 3], "decoder")
    weights = np.array(one["weights"])
    assert weights.shape[:2] == (2, 3)
    assert weights.shape[2] == len(one["queries"]) > found["prompt_tokens"] == 4
    assert np.abs(weights.sum(axis=-1) - 1).max() < 1e-5


def test_chat_puts_the_text_into_the_template(invoke: Invoke, models: dict[str, str]) -> None:
    done = invoke("attention", models["decoder"], "ab", "--chat", "--json", "--layer", "0")
    assert json.loads(done.stdout)["maps"][0]["keys"] == ["a", "b", "."]


def test_a_pair(invoke: Invoke, models: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "text").write_text("she sells\n", encoding="utf-8")
    done = invoke("attention", models["encoder"], "-f", str(tmp_path / "text"), "--pair", "shells", "--json")
    (one,) = json.loads(done.stdout)["maps"]
    assert one["keys"] == ["[CLS]", "she", "sells", "[SEP]", "shells", "[SEP]"]
    assert np.array(one["weights"]).shape == (1, ENCODER_HEADS, 6, 6)


def test_files(invoke: Invoke, models: dict[str, str], tmp_path: Path) -> None:
    page, picture = tmp_path / "a page.html", tmp_path / "maps.png"
    done = invoke("attention", models["decoder"], "ab c", "--html", str(page), "--png", str(picture))
    assert done.exit_code == 0, done.stderr
    assert done.stderr == f"wrote {page}\nwrote {picture}\n"
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_an_encoder_decoder_answers(invoke: Invoke, models: dict[str, str], tmp_path: Path) -> None:
    done = invoke("attention", models["both"], "a", "--png", str(tmp_path / "maps.png"), "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert [one["kind"] for one in found["maps"]] == ["encoder", "cross"]
    assert len(found["maps"][1]["queries"]) > 1
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["maps-cross.png", "maps-encoder.png"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("{decoder}", "ab", "--layer", "9"), 2, "there is no layer 9; layers are from 0 to 2"),
        (("{decoder}", "ab", "--head", "4"), 2, "there is no head 4; heads are from 0 to 3"),
        (("{decoder}", "ab", "--layer", "3-"), 2, "'3-' is no list of numbers such as 0,3-5"),
        (("{decoder}", "ab", "--layer", "3-1"), 2, "'3-1' is no list of numbers"),
        (("{decoder}", "ab", "--pair", "c"), 2, "is no encoder, which alone takes --pair"),
        (("{decoder}", "a" * 65), 2, "the text has 65 tokens, but tiny takes 64"),
        (("{encoder}", "she", "--chat"), 2, "has no chat template"),
        (("{encoder}", "she", "-n", "2"), 2, "is an encoder, which generates nothing"),
        (("{decoder}", "ab", "--png", "{decoder}"), 2, "{decoder} is a folder; name a file in it"),
        (("tiny", "ab"), 2, "no attention that can be looked at"),
    ],
)
def test_what_is_refused(
    invoke: Invoke, models: dict[str, str], arguments: tuple[str, ...], code: int, message: str
) -> None:
    done = invoke("attention", *(argument.format(**models) for argument in arguments))
    assert (done.exit_code, done.stdout) == (code, "")
    assert message.format(**models) in done.stderr
    assert done.stderr.count("\n") == 1


def test_too_much_to_print(invoke: Invoke, models: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgelm.cli.attention._MOST_PRINTED", 191)
    done = invoke("attention", models["decoder"], "ab c", "--json")
    assert done.exit_code == 2
    assert "--json prints at most 191 weights, not 192: choose with --layer and --head" in done.stderr
