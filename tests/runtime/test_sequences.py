"""The pool: a prompt continues where an earlier one parted from it, and every loan ends."""

from __future__ import annotations

import gc
import threading
import weakref

import numpy as np
import pytest
from support.pools import demand

from edgelm.errors import CancelledError, ClosedError
from edgelm.runtime.sequences import SequencePool


@pytest.fixture
def pool(new_decoder):
    made = []

    def new():
        made.append(new_decoder(context_length=64))
        return made[-1]

    pool = SequencePool(new)
    pool.made = made
    yield pool
    pool.close()


def ids(*tokens):
    return np.array(tokens, np.int64)


def use(pool, prompt, answer=(), tokens=0):
    """Borrows, prefills, steps through the answer but its last token, gives back; returns how much was cached."""
    lent = pool.borrow(prompt, tokens)
    lent.decoder.prefill(prompt[lent.cached :])
    for token in answer[:-1]:
        lent.decoder.step(token)
    pool.give_back(lent, [*prompt, *answer])
    return lent.cached


def test_the_first_loan_is_a_fresh_decoder(pool):
    lent = pool.borrow(ids(3, 4), 10)
    assert (lent.cached, lent.decoder.length, lent.tokens) == (0, 0, 10)
    assert len(pool.made) == 1


@pytest.mark.parametrize(
    ("prompt", "cached"),
    [
        (ids(3, 4, 5, 6, 7, 8, 9), 5),  # goes on where the cache ends: the answer's last token was not computed
        (ids(3, 4, 5, 6, 7), 4),  # the same again: one token is left to prefill
        (ids(3, 4), 1),
        (ids(3, 4, 9, 9), 2),  # parts from it
        (ids(9, 3, 4), 0),
        (ids(3), 0),
    ],
)
def test_a_prompt_is_prefilled_from_where_it_parts_from_the_last_sequence(pool, new_decoder, prompt, cached):
    assert use(pool, ids(3, 4, 5), answer=(6, 7, 8)) == 0
    lent = pool.borrow(prompt, 0)
    assert (lent.cached, lent.decoder.length) == (cached, cached)
    logits = lent.decoder.prefill(prompt[cached:])
    np.testing.assert_allclose(logits, new_decoder().prefill(prompt), atol=1e-4)
    assert len(pool.made) == (1 if cached else 2), "what shares nothing leaves it as it is"


def test_two_loans_at_a_time_have_decoders_of_their_own(pool):
    one, other = pool.borrow(ids(3, 4), 0), pool.borrow(ids(3, 4), 0)
    assert one.decoder is not other.decoder
    for lent in (one, other):
        lent.decoder.prefill([3, 4])
        pool.give_back(lent, [3, 4])
    again = pool.borrow(ids(3, 4), 0)
    assert again.decoder is other.decoder, "the newest is kept"
    assert pool.borrow(ids(3, 4), 0).decoder not in (one.decoder, other.decoder), "and only that"


def test_as_many_are_kept_as_asked_for_and_the_best_is_lent(new_decoder):
    pool = SequencePool(lambda: new_decoder(context_length=64), keep=2)
    prompts = [ids(3, 4, 5, 6), ids(7, 8, 9, 10)]
    loans = [pool.borrow(prompt, 0) for prompt in prompts]
    for lent, prompt in zip(loans, prompts, strict=True):
        lent.decoder.prefill(prompt)
        pool.give_back(lent, prompt)
    assert pool.borrow(ids(3, 4, 5, 1), 0).cached == 3
    assert pool.borrow(ids(7, 8, 1), 0).cached == 2


def test_nothing_is_kept_where_nothing_is_to_be_kept(new_decoder):
    pool = SequencePool(lambda: new_decoder(context_length=64), keep=0)
    assert use(pool, ids(3, 4)) == 0
    assert use(pool, ids(3, 4)) == 0


def test_a_discarded_decoder_is_not_lent_again(pool):
    lent = pool.borrow(ids(3, 4), 0)
    lent.decoder.prefill(ids(3, 4))
    pool.discard(lent)
    assert pool.borrow(ids(3, 4), 0).decoder is not lent.decoder


def test_a_loan_that_is_forgotten_ends(pool):
    lent = pool.borrow(ids(3, 4), 50)
    assert demand(pool) == (1, 50)
    decoder = weakref.ref(pool.made.pop())
    del lent
    gc.collect()
    assert demand(pool) == (0, 0)
    assert decoder() is None


def test_the_demand_is_what_all_sequences_may_come_to(pool):
    assert demand(pool) == (0, 0)
    one, other = pool.borrow(ids(3), 20), pool.borrow(ids(4), 30)
    assert demand(pool) == (2, 50)
    other.decoder.reserve(40)
    assert demand(pool) == (2, 60), "what is reserved already counts where it is more"
    pool.discard(one)
    assert demand(pool) == (1, 40)
    other.decoder.prefill(ids(4))
    pool.give_back(other, [4])
    assert demand(pool) == (1, 40), "an idle cache still takes memory"
    again = pool.borrow(ids(4, 5), 10)
    assert (again.decoder, demand(pool)) == (other.decoder, (1, 40))


def test_closing_cancels_what_is_lent_and_frees_the_rest(pool):
    use(pool, ids(3, 4))
    idle = weakref.ref(pool.made.pop())
    lent = pool.borrow(ids(3, 4), 0)
    pool.close()
    pool.close()
    with pytest.raises(ClosedError, match="the model is closed"):
        pool.borrow(ids(3), 0)
    with pytest.raises(CancelledError):
        lent.decoder.prefill([3])
    pool.give_back(lent, [])
    del lent
    gc.collect()
    assert idle() is None
    assert demand(pool) == (0, 0)


def test_a_loan_may_end_in_a_destructor_that_interrupts_the_pool(new_decoder):
    """A garbage collection may come while the pool holds its lock, in the thread that holds it."""
    streams = []

    def new():  # the pool makes decoders with its lock held
        streams.clear()
        return new_decoder(context_length=64)

    class Stream:
        def __init__(self, lent):
            self.lent = lent

        def __del__(self):
            pool.give_back(self.lent, [])

    pool = SequencePool(new, keep=1)
    streams.append(Stream(pool.borrow(ids(3), 5)))
    done = threading.Event()

    def borrow():
        pool.borrow(ids(4), 7)
        done.set()

    threading.Thread(target=borrow, daemon=True).start()
    assert done.wait(10), "the pool waits for itself"
    assert not streams
    assert demand(pool) == (0, 0), "the abandoned loan has ended, and a cache with nothing in it is not kept"


def test_many_threads_end_their_loans(new_decoder):
    pool = SequencePool(lambda: new_decoder(context_length=64), keep=3)

    def work(seed):
        random = np.random.default_rng(seed)
        for _ in range(20):
            lent = pool.borrow(random.integers(3, 6, 4), 10)
            if random.random() < 0.5:
                pool.give_back(lent, [])
            elif random.random() < 0.5:
                pool.discard(lent)
            del lent

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    sequences, tokens = demand(pool)
    assert (sequences <= 3, tokens) == (True, 0)
    assert not pool._lent
