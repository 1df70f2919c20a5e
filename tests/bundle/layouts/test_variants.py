import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgelm.bundle.layouts.variants import choose
from edgelm.errors import ConfigError, UnsupportedModelError

ENCODERS = (
    "model.onnx",
    "model_O3.onnx",
    "model_qint8_avx512_vnni.onnx",
    "model_qint8_avx512.onnx",
    "model_quint8_avx2.onnx",
    "model_qint8_arm64.onnx",
)
JS = ("", "_fp16", "_quantized", "_int8", "_uint8", "_q4", "_q4f16", "_bnb4")


@pytest.mark.parametrize(
    ("instructions", "variant"),
    [
        ({"avx2", "avx512", "avx512_vnni"}, "qint8_avx512_vnni"),
        ({"avx2", "avx512"}, "qint8_avx512"),
        ({"avx2"}, "quint8_avx2"),
        ({"arm64"}, "qint8_arm64"),
        (set(), "fp32"),
    ],
)
def test_the_file_made_for_a_processor_is_chosen_there(instructions: set[str], variant: str) -> None:
    assert choose(ENCODERS, family="encoder", instructions=instructions).variant == variant


@pytest.mark.parametrize(
    ("family", "instructions", "variant"),
    [
        ("encoder", {"avx2"}, "uint8"),  # signed products would saturate
        ("encoder", {"avx2", "avx512_vnni"}, "quantized"),
        ("encoder", {"arm64"}, "quantized"),
        ("decoder", {"avx2", "avx512_vnni"}, "q4"),
    ],
)
def test_among_transformers_js_files_the_most_exact_small_one_is_chosen(
    family: str, instructions: set[str], variant: str
) -> None:
    choice = choose([f"model{suffix}.onnx" for suffix in JS], family=family, instructions=instructions)
    assert choice.variant == variant
    assert choice.graphs == {family: f"model_{variant}.onnx"}
    assert choice.variants[0] == variant
    assert set(choice.variants) == {"fp32", *(suffix[1:] for suffix in JS if suffix)}


def test_a_merged_decoder_comes_before_a_pair() -> None:
    names = ["encoder_model", "decoder_model", "decoder_with_past_model", "decoder_model_merged"]
    choice = choose([f"{name}.onnx" for name in names], family="encoder-decoder", instructions=())
    assert choice.graphs == {"encoder": "encoder_model.onnx", "decoder": "decoder_model_merged.onnx"}
    pair = choose([f"{name}_int8.onnx" for name in names[:3]], family="encoder-decoder", instructions=())
    assert pair.graphs["decoder_with_past"] == "decoder_with_past_model_int8.onnx"
    assert pair.variant == "int8"


def test_a_variant_that_lacks_a_graph_is_none() -> None:
    names = ["encoder_model_int8.onnx", "encoder_model.onnx", "decoder_model_merged.onnx"]
    assert choose(names, family="encoder-decoder", instructions=()).variants == ("fp32",)


@pytest.mark.parametrize(
    ("names", "family", "message"),
    [
        (["decoder_model.onnx"], "decoder", "decoder_model.onnx and decoder_with_past_model.onnx"),
        (["encoder_model.onnx", "decoder_model.onnx"], "encoder-decoder", "with its past"),
        ([], "encoder", "model.onnx"),
        (["model.txt", "models.onnx", "model_../x.onnx"], "encoder", "not all are there"),
    ],
)
def test_what_is_not_whole_is_named(names: list[str], family: str, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        choose(names, family=family, instructions=())


@given(st.sets(st.sampled_from(JS), min_size=1), st.sampled_from(["encoder", "decoder"]), st.data())
def test_every_variant_that_is_there_can_be_asked_for(suffixes: set[str], family: str, data: st.DataObject) -> None:
    names = [f"model{suffix}.onnx" for suffix in suffixes]
    variants = choose(names, family=family, instructions=()).variants
    assert len(variants) == len(suffixes)
    wanted = data.draw(st.sampled_from(variants))
    choice = choose(names, family=family, instructions=(), variant=wanted)
    assert choice.variant == wanted
    assert choice.graphs[family] in names


def test_an_unknown_variant_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no variant 'q8f'; the folder has int8, fp32"):
        choose(["model.onnx", "model_int8.onnx"], family="encoder", instructions=(), variant="q8f")
