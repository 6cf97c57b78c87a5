"""Whether a submission says that the memory of its GPU ran out. It can be forged, so that it never decides alone."""

from __future__ import annotations

import re

# What CUDA, PyTorch, cuBLAS and XLA say (TensorFlow and JAX use the last two).
_WORDS = re.compile(
    r"CUDA out of memory|CUDA error: out of memory|OutOfMemoryError|CUDA_ERROR_OUT_OF_MEMORY|cudaErrorMemoryAllocation"
    r"|CUBLAS_STATUS_ALLOC_FAILED|RESOURCE_EXHAUSTED"
)


def gpu_memory_reported(log: bytes, tail: str) -> bool:
    """Whether the kept beginning of the log, or its end, says so."""
    return any(_WORDS.search(part) is not None for part in (tail, log.decode("utf-8", errors="replace")))
