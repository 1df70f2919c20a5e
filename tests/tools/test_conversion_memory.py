"""What converting takes is known before it begins, and held."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.llama_checkpoint import LlamaSizes, write_llama_checkpoint
from support.source_tree import ROOT

from edgelm.bundle.manifest import Source
from edgelm.errors import MemoryLimitError
from edgelm_tools.architectures.registry import understand
from edgelm_tools.checkpoint import open_checkpoint
from edgelm_tools.conversion_memory import ConversionPlan, plan_conversion
from edgelm_tools.export import export

MIDDLE = LlamaSizes(layers=2, hidden=512, intermediate=1536, heads=8, kv_heads=2, vocab_size=30_000, context_length=512)
# 440 MB in fp32.
LARGE = LlamaSizes(layers=24, hidden=512, intermediate=2048, heads=8, kv_heads=2, vocab_size=40_000, context_length=512)
_CONVERT = """
import sys
from pathlib import Path
from edgelm.bundle.manifest import Source
from edgelm.runtime.memory import peak_memory
from edgelm_tools.export import export

checkpoint, target, limit, scheme = sys.argv[1:]
told = []
export(
    Path(checkpoint), Path(target), name="m", origin=Source("test"), scheme=scheme,
    max_memory=int(limit), tell=told.append,
)
print(peak_memory(), "; ".join(told))
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama_checkpoint(tmp_path_factory.mktemp("middle") / "checkpoint", MIDDLE)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_llama_checkpoint(tmp_path / "small", LlamaSizes(context_length=300))


def plan(checkpoint: Path, limit: int | None, scheme: str = "int8", *, report: bool = True) -> ConversionPlan:
    opened = open_checkpoint(checkpoint)
    try:
        return plan_conversion(understand(opened), scheme, checkpoint, report=report, limit=limit)
    finally:
        opened.close()


def convert(checkpoint: Path, target: Path, limit: int, scheme: str) -> tuple[int, str]:
    """Peak of resident memory in a process of its own, and what was left out."""
    command = [sys.executable, "-c", _CONVERT, str(checkpoint), str(target), str(limit), scheme]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    peak, _, told = done.stdout.strip().partition(" ")
    return int(peak), told


@pytest.mark.skipif(sys.platform != "linux", reason="the constants are of Linux")
def test_a_limit_holds_and_what_does_not_fit_is_left_out(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGELM_HOME", str(tmp_path / "home"))
    limit = plan(checkpoint, None, report=False).need
    peak, told = convert(checkpoint, tmp_path / "b", limit, "int8")
    assert "no report of what quantization costs, which needs" in told
    assert 0.6 * limit < peak <= limit
    assert not (tmp_path / "b" / "report.json").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the constants are of Linux")
def test_a_model_larger_than_the_limit_is_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELM_HOME", str(tmp_path / "home"))
    checkpoint = write_llama_checkpoint(tmp_path / "large", LARGE)
    in_fp32 = 2 * (checkpoint / "model.safetensors").stat().st_size
    limit = 6 * in_fp32 // 10
    assert plan(checkpoint, limit, "int8-block").need <= limit
    peak, told = convert(checkpoint, tmp_path / "b", limit, "int8-block")
    assert peak <= limit
    assert told.startswith("to stay within")


def test_all_that_is_wanted_is_done_without_a_limit(checkpoint: Path) -> None:
    found = plan(checkpoint, None)
    assert (found.report, found.cache_scales, found.cache_figures) == (True, True, True)
    assert (found.left_out, found.calibration_tokens) == ((), 4096)
    assert plan(checkpoint, found.need) == found


def test_less_memory_leaves_out_more_and_never_needs_more_than_there_is(checkpoint: Path) -> None:
    done = []
    limit = plan(checkpoint, None).need
    while True:
        try:
            found = plan(checkpoint, limit)
        except MemoryLimitError:
            break
        assert found.need <= limit
        done.append((found.report, found.cache_scales, found.calibration_tokens))
        limit -= 10_000_000
    assert len(dict.fromkeys(done)) >= 3
    assert done == sorted(done, reverse=True)
    assert (done[0][0], done[-1][0], done[0][2], done[-1][2]) == (True, False, 4096, 1024)


def test_what_cannot_be_held_is_refused_before_anything_is_written(small: Path, tmp_path: Path) -> None:
    with pytest.raises(
        MemoryLimitError, match=r"converting needs \d+ MB, .* the limit is 20 MB; what would help"
    ) as error:
        export(small, tmp_path / "b", name="b", origin=Source("test"), max_memory=20_000_000)
    assert error.value.exit_code == 3
    assert not (tmp_path / "b").exists()


def test_a_scheme_without_calibration_is_named_where_it_helps(checkpoint: Path) -> None:
    for scheme in ("int8", "int4"):
        with pytest.raises(MemoryLimitError, match="--scheme int8-block, which needs no calibration and"):
            plan(checkpoint, 100_000_000, scheme)
    with pytest.raises(MemoryLimitError) as error:
        plan(checkpoint, 100_000_000, "int8-block")
    assert "int8-block" not in str(error.value)


def test_what_is_left_out_is_not_in_the_bundle(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELM_HOME", str(tmp_path / "home"))
    whole = plan(small, None)
    told: list[str] = []
    limit = plan(small, None, report=False).need
    made = export(small, tmp_path / "b", name="b", origin=Source("test"), max_memory=limit, tell=told.append)
    assert whole.need > limit
    assert made.quality == {}
    assert made.kv is not None
    assert made.kv.scales is not None
    assert told == [f"to stay within {limit / 1e6:.0f} MB: {words}" for words in plan(small, limit).left_out]


def test_fewer_tokens_calibrate_too(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELM_HOME", str(tmp_path / "home"))
    few = ConversionPlan(report=True, cache_scales=False, cache_figures=False, calibration_tokens=1024)
    monkeypatch.setattr("edgelm_tools.export.plan_conversion", lambda *_, **__: few)
    made = export(small, tmp_path / "b", name="b", origin=Source("test"))
    assert made.kv is not None
    assert made.kv.scales is None
    assert made.quality["kl"] < 0.01
    assert "int8_cache_kl" not in made.quality
