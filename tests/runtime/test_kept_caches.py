"""What becomes of kept caches: shared prefixes are copied, memory is given back, the least recently used goes first."""

from __future__ import annotations

import numpy as np
import pytest
from support.pools import demand

from edgelm.errors import MemoryLimitError
from edgelm.runtime.memory import Needs
from edgelm.runtime.sequences import SequencePool


class Limit:
    """A memory limit in tokens."""

    def __init__(self):
        self.tokens = 10**9

    def __call__(self, needs):
        if needs.tokens > self.tokens:
            raise MemoryLimitError(f"{needs.tokens} tokens, the limit is {self.tokens}")


@pytest.fixture
def limit():
    return Limit()


@pytest.fixture
def pool(new_decoder, limit):
    pool = SequencePool(new_decoder, keep=2, check=limit)
    yield pool
    pool.close()


def run(start, length, *, seed=0):
    """Tokens: those of ``start``, then others."""
    rest = np.random.default_rng(seed).integers(3, 30, length - len(start))
    rest[0] = 3 + seed  # no two begin alike
    return np.concatenate([np.asarray(start, np.int64), rest])


def use(pool, prompt, tokens=None):
    """Prefills a prompt, gives it back; returns how much was cached and the logits."""
    lent = pool.borrow(prompt, tokens or len(prompt))
    lent.decoder.reserve(tokens or len(prompt))
    logits = lent.decoder.prefill(prompt[lent.cached :]).copy()
    pool.give_back(lent, prompt)
    return lent.cached, logits


SYSTEM = run([], 50, seed=1)
ONE, OTHER = run(SYSTEM, 150, seed=2), run(SYSTEM, 140, seed=3)


def test_two_conversations_share_a_system_prompt_and_both_stay(pool, new_decoder):
    assert use(pool, ONE)[0] == 0
    cached, logits = use(pool, OTHER)
    assert cached == 50, "copied"
    np.testing.assert_allclose(logits, new_decoder().prefill(OTHER), atol=1e-4)
    for talk in (ONE, OTHER):
        longer = run(talk, 200, seed=4)
        cached, logits = use(pool, longer)
        assert cached == len(talk), "neither took the other's place"
        np.testing.assert_allclose(logits, new_decoder().prefill(longer), atol=1e-4)


def test_a_copy_is_computed_as_what_it_was_copied_from(pool, new_decoder):
    use(pool, ONE)
    lent = pool.borrow(OTHER, 140)
    assert (lent.cached, lent.decoder.length, lent.decoder.cache.capacity) == (50, 50, 140)
    for (_, mine), (_, theirs) in zip(
        lent.decoder.cache.arrays(), pool._kept[0].decoder.cache.buffers(50), strict=True
    ):
        assert np.array_equal(mine, theirs)
        assert not np.shares_memory(mine, theirs)


def test_the_least_recently_used_goes_first(pool):
    talks = [run([], 100, seed=seed) for seed in range(3)]
    for talk in talks:
        use(pool, talk)
    assert use(pool, run(talks[1], 120))[0] == 100
    assert use(pool, run(talks[2], 120))[0] == 100
    assert use(pool, run(talks[0], 120))[0] == 0


def test_the_same_prompt_again_takes_no_second_cache(pool):
    use(pool, run(SYSTEM, 150))
    assert use(pool, SYSTEM)[0] == 49
    assert demand(pool)[0] == 1


def test_a_short_prompt_does_not_inherit_a_long_conversation(pool, limit):
    """The memory of what is finished is given back where it is needed, and only there."""
    limit.tokens = 600
    use(pool, run(SYSTEM, 500))
    loans = [pool.borrow(run([], 20, seed=seed), 30) for seed in (2, 3, 4)]
    assert demand(pool) == (4, 590), "it fits beside them"
    loans.append(pool.borrow(run([], 20, seed=5), 30))
    assert demand(pool) == (4, 120), "it does not any more"


def test_what_is_shared_moves_where_the_rest_needs_too_much_room(pool, limit, new_decoder):
    use(pool, run(SYSTEM, 500))
    limit.tokens = 200
    prompt = run(SYSTEM, 100, seed=9)
    lent = pool.borrow(prompt, 120)
    assert (lent.cached, lent.decoder.cache.capacity, demand(pool)) == (50, 120, (1, 120))
    np.testing.assert_allclose(lent.decoder.prefill(prompt[50:]), new_decoder().prefill(prompt), atol=1e-4)


def test_a_copy_makes_room_before_it_gives_up_what_it_is_copied_from(pool, limit):
    use(pool, run([], 100, seed=7))
    use(pool, ONE)
    limit.tokens = 300
    lent = pool.borrow(OTHER, 140)
    assert (lent.cached, demand(pool)) == (50, (2, 290)), "the older one went, the source stays"


def test_what_never_fits_costs_nobody_their_cache(pool, limit):
    use(pool, ONE)
    limit.tokens = 200
    with pytest.raises(MemoryLimitError, match="201 tokens, the limit is 200"):
        pool.borrow(OTHER, 201)
    assert use(pool, run(ONE, 160))[0] == 150


@pytest.mark.parametrize("keeps", [False, True])
def test_memory_that_becomes_short_between_two_checks_is_told_as_such(pool, limit, monkeypatch, keeps):
    if keeps:
        use(pool, ONE)
    left = iter([10**9])

    def dip(needs):
        limit.tokens = next(left, 100)
        limit(needs)

    monkeypatch.setattr(pool, "check", dip)
    with pytest.raises(MemoryLimitError, match="140 tokens, the limit is 100"):
        pool.lend_rows(None, Needs(tokens=140))
    assert demand(pool) == (0, 0), "what was kept went to make room"
    monkeypatch.setattr(pool, "check", lambda needs: None)
    assert use(pool, ONE)[0] == 0


@pytest.mark.parametrize("keep", [0, 1, 2, 3])
def test_no_more_are_kept_than_asked_for(new_decoder, keep):
    pool = SequencePool(new_decoder, keep=keep)
    for seed in range(5):
        use(pool, run(SYSTEM, 120, seed=seed))
        assert demand(pool)[0] == min(seed + 1, keep)
