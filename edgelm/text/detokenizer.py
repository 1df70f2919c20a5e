"""Token ids, one at a time, to text that is final.

Decoders treat the first token of a text differently and a character may take several tokens. So the newest tokens are
decoded together with a few before them, and what is new in the result is released, except a last U+FFFD, which may
still become a character. (The technique is the prefix offset of Hugging Face's text-generation-inference.)
"""

from __future__ import annotations

from edgelm.text.tokenizer import Tokenizer

# A character has at most four bytes and a token at least one, so these hold whatever character is still open.
_OVERLAP = 4
_WINDOW = 16
_UNDECODED = "\ufffd"


class IncrementalDetokenizer:
    """Gives out the text of a growing sequence of tokens; constant work per token.

    The pieces from ``push`` and ``finish`` together are exactly ``tokenizer.decode(ids)``. Two kinds of text wait:
    a run of byte-fallback tokens (``<0xE4>``…) until it ends, because one invalid byte changes how the whole run is
    decoded; and everything, until ``finish``, where ``tokenizer.streams`` is False.
    One detokenizer serves one sequence and one thread.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._skipped = tokenizer.special_token_ids if skip_special_tokens else frozenset[int]()
        self._window: list[int] = []
        self._released = 0  # characters of the window's text that were given out

    def push(self, token_id: int) -> str:
        """Takes the next token; returns the text that became final, often empty.

        Raises:
            PromptError: the id is outside the vocabulary.
        """
        self._tokenizer.check_id(token_id)
        token = self._tokenizer.id_to_token(token_id)
        if token is None or token_id in self._skipped:
            return ""
        self._window.append(token_id)
        if not self._tokenizer.streams or (self._tokenizer.has_byte_fallback and _is_byte(token)):
            return ""
        text = self._decode()
        final = len(text) - text.endswith(_UNDECODED)
        piece = text[self._released : final]
        self._released = final
        if len(self._window) > _WINDOW:
            self._shorten()
        return piece

    def finish(self) -> str:
        """The rest of the text, now that no token follows; the detokenizer is then as new."""
        piece = self._decode()[self._released :]
        self._window = []
        self._released = 0
        return piece

    def _shorten(self) -> None:
        recent = self._window[-_OVERLAP:]
        text = self._tokenizer.decode(recent, skip_special_tokens=self._skip_special_tokens)
        # Without text there is nothing yet that shields what follows from the treatment of a text's start.
        if text:
            self._window = recent
            self._released = len(text) - text.endswith(_UNDECODED)

    def _decode(self) -> str:
        return self._tokenizer.decode(self._window, skip_special_tokens=self._skip_special_tokens)


def _is_byte(token: str) -> bool:
    return token.startswith("<0x") and token.endswith(">")
