"""Runs graphs on ONNX Runtime: sessions, memory, KV cache, decoder."""
