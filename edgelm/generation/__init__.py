"""Chooses tokens: the loop, logits processors, sampling, stopping. Knows nothing about text or ONNX."""
