"""Checkpoint readers: safetensors and GGUF, memory-mapped, tensor by tensor, without torch."""
