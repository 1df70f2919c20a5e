"""Past the window with converted checkpoints of every kind of positions: what stays is where a fresh run has it."""

from __future__ import annotations

import numpy as np
import pytest
from support.gpt_checkpoints import GPT_VARIANTS
from support.tiny_checkpoints import VARIANTS, VOCABULARY, reference_model, write_checkpoint

import edgelm
from edgelm.bundle.manifest import Source
from edgelm.errors import UnsupportedModelError
from edgelm.runtime.sliding import PastWindow, SlidingWindow

pytestmark = pytest.mark.reference

WINDOW = 24
TOKENS = 61
# One of each architecture; the variants of one differ in what positions do not depend on.
FIRST = {each.model_type: each for each in reversed([*VARIANTS, *GPT_VARIANTS])}
LEARNED = ("gpt2", "opt")


@pytest.mark.parametrize("name", sorted(FIRST))
def test_keys_of_the_first_layer_are_those_of_their_places(tmp_path, name):
    from edgelm_tools.export import export

    write_checkpoint(tmp_path / "checkpoint", reference_model(FIRST[name]))
    export(tmp_path / "checkpoint", tmp_path / "b", name="m", origin=Source("test:m"), scheme="fp32", report=False)
    with edgelm.load(tmp_path / "b", threads=1, prepack=False) as lm:
        if name in LEARNED:
            with pytest.raises(UnsupportedModelError, match="learned its positions"):
                PastWindow(lm.bundle, WINDOW)
            return
        ids = np.random.default_rng(0).integers(5, VOCABULARY, TOKENS)
        slid, fresh = lm.new_decoder(), lm.new_decoder()
        PastWindow(lm.bundle, WINDOW).over(slid, limit=2 * TOKENS).prefill(ids)
        dropped = SlidingWindow(WINDOW).dropped_at(TOKENS)
        fresh.prefill(np.concatenate([ids[: SlidingWindow.sinks], ids[SlidingWindow.sinks + dropped :]]))
        expected = dict(fresh.cache.arrays())
        for tensor, array in slid.cache.arrays():
            if tensor.startswith("past_key_values.0."):
                np.testing.assert_allclose(array, expected[tensor], atol=2e-4)
