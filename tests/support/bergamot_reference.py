"""A plain float32 reading of Bergamot models in NumPy: one sentence, one token after the other, nothing fused."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgelm_tools.checkpoint.bergamot_checkpoint import BergamotCheckpoint

Floats = NDArray[np.float32]
END = 0


class BergamotReference:
    """A model whose weights are ``int8 / multiplier``, in float32."""

    def __init__(self, checkpoint: BergamotCheckpoint) -> None:
        self.w = {name: checkpoint.tensor(name) for name in checkpoint.names() if "QuantMultA" not in name}
        config = checkpoint.config
        self.width, self.heads = int(config["dim-emb"]), int(config["transformer-heads"])
        self.encoder_layers, self.decoder_layers = int(config["enc-depth"]), int(config["dec-depth"])

    def greedy(self, source: Sequence[int], most: int) -> tuple[list[int], list[Floats]]:
        """The likeliest tokens, up to the end of the sentence, and the logits before each."""
        encoded = self.encode(source)
        tokens: list[int] = []
        seen: list[Floats] = []
        while len(tokens) < most and END not in tokens:
            seen.append(self.logits(encoded, tokens)[-1])
            tokens.append(int(seen[-1].argmax()))
        return tokens, seen

    def would_write(self, source: Sequence[int], tokens: Sequence[int]) -> bool:
        """Whether ``greedy`` gives just these tokens; quicker, as all steps are computed at once."""
        likeliest = self.logits(self.encode(source), tokens[:-1]).argmax(axis=1)
        return END not in tokens[:-1] and tokens[-1] == END and likeliest.tolist() == list(tokens)

    def encode(self, source: Sequence[int]) -> Floats:
        """What the encoder makes of a source: (tokens, width)."""
        x = self.w["Wemb"][list(source)] * np.float32(math.sqrt(self.width)) + self.places(range(len(source)))
        for layer in range(1, self.encoder_layers + 1):
            name = f"encoder_l{layer}"
            q, k, v = (self.linear(x, f"{name}_self", kind) for kind in "qkv")
            attended = self.linear(self.attention(q, k, v), f"{name}_self", "o")
            x = self.norm(x + attended, f"{name}_self_Wo")
            x = self.feed_forward(x, name)
        return x

    def logits(self, encoded: Floats, tokens: Sequence[int]) -> Floats:
        """Logits at the start and after each token: (1 + tokens, vocabulary)."""
        # At the start there is no token: its place alone goes in.
        embedded = np.concatenate([np.zeros((1, self.width), np.float32), self.w["Wemb"][list(tokens)]])
        x = embedded * np.float32(math.sqrt(self.width)) + self.places(range(len(embedded)))
        for layer in range(1, self.decoder_layers + 1):
            name = f"decoder_l{layer}"
            x = self.norm(x + np.maximum(self.cells(x, name), 0), f"{name}_rnn_ffn")
            query = self.linear(x, f"{name}_context", "q")
            keys, values = (self.linear(encoded, f"{name}_context", kind) for kind in "kv")
            attended = self.attention(query, keys, values)
            x = self.norm(x + self.linear(attended, f"{name}_context", "o"), f"{name}_context_Wo")
            x = self.feed_forward(x, name)
        result: Floats = x @ self.w["Wemb"].T + self.w["decoder_ff_logit_out_b"]
        return result

    def cells(self, x: Floats, name: str) -> Floats:
        """The states of a layer's recurrent cell, one after the other, from zero."""
        gates = 1 / (1 + np.exp(-(x @ self.w[f"{name}_rnn_Wf"].T + self.w[f"{name}_rnn_bf"])))
        values = x @ self.w[f"{name}_rnn_W"].T
        states = [np.zeros(self.width, np.float32)]
        for gate, value in zip(gates, values, strict=True):
            states.append(gate * states[-1] + (1 - gate) * value)
        return np.stack(states[1:])

    def places(self, places: Sequence[int] | range) -> Floats:
        """Sines, then cosines, of each place."""
        half = self.width // 2
        frequencies = np.exp(-np.arange(half) * math.log(10000) / (half - 1))
        angles = np.array(places)[:, None] * frequencies
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)

    def attention(self, query: Floats, keys: Floats, values: Floats) -> Floats:
        q, k, v = (x.reshape(len(x), self.heads, -1).transpose(1, 0, 2) for x in (query, keys, values))
        scores = q @ k.transpose(0, 2, 1) / np.float32(math.sqrt(self.width // self.heads))
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        mixed: Floats = (weights @ v).transpose(1, 0, 2).reshape(query.shape)
        return mixed

    def feed_forward(self, x: Floats, name: str) -> Floats:
        inner = np.maximum(x @ self.w[f"{name}_ffn_W1"].T + self.w[f"{name}_ffn_b1"], 0)
        return self.norm(x + inner @ self.w[f"{name}_ffn_W2"].T + self.w[f"{name}_ffn_b2"], f"{name}_ffn_ffn")

    def linear(self, x: Floats, name: str, kind: str) -> Floats:
        product: Floats = x @ self.w[f"{name}_W{kind}"].T + self.w[f"{name}_b{kind}"]
        return product

    def norm(self, x: Floats, name: str) -> Floats:
        centred = x - x.mean(axis=-1, keepdims=True)
        deviation = np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + np.float32(1e-9))
        normed: Floats = centred / deviation * self.w[f"{name}_ln_scale"] + self.w[f"{name}_ln_bias"]
        return normed
