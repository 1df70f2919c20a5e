"""The smallest folder that the store takes for a bundle: a sound manifest and the files it lists. It cannot run."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edgelm.bundle.manifest import MANIFEST_NAME, FileEntry, KVGeometry, Manifest, Source


def write_small_bundle(folder: Path, *, name: str = "tiny", graph: bytes = b"no real graph") -> Path:
    """Writes the bundle into ``folder`` (made if need be) and returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "decoder.onnx").write_bytes(graph)
    manifest = Manifest(
        name=name,
        architecture="llama",
        family="decoder",
        tasks=("text-generation",),
        graphs={"decoder": "decoder.onnx"},
        context_length=64,
        vocab_size=32,
        kv=KVGeometry(layers=1, kv_heads=1, head_size=16),
        bos_token_id=None,
        eos_token_id=(2,),
        quantization={"scheme": "int8"},
        files={"decoder.onnx": FileEntry(size=len(graph), sha256=hashlib.sha256(graph).hexdigest())},
        source=Source(uri="local:tiny"),
    )
    (folder / MANIFEST_NAME).write_bytes(manifest.to_json())
    return folder
