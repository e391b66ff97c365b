"""Memory that ran out: telling it from other errors, and giving back what torch keeps."""

from __future__ import annotations

import re

import torch

# What ONNX Runtime says in an exception when its arena or CUDA has no memory left: BFCArena::AllocateRawInternal's
# message, CUDA's error 2 and cuBLAS's and cuDNN's status of the same meaning (core/framework/bfc_arena.cc and
# providers/cuda/cuda_call.cc of ONNX Runtime [R]). Its exceptions carry no code that says it.
_ONNX_ALLOCATION = re.compile(
    r"failed to allocate memory|available memory of \d+ is smaller than requested|out of memory|bad_alloc"
    r"|CU(BLAS|DNN)_STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)


# What torch says, other than by its OutOfMemoryError, where CUDA, cuBLAS or cuDNN allocate for themselves; the last is
# cuDNN's search for an algorithm, which takes a lack of memory for one that does not work (torch 2.13, Conv_v8.cpp).
_TORCH_ALLOCATION = re.compile(
    r"CUDA error: out of memory|CU(BLAS|DNN)_STATUS_ALLOC_FAILED|unable to find an engine to execute", re.IGNORECASE
)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether torch or ONNX Runtime found no memory on its device; no other error counts."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    if isinstance(error, RuntimeError) and _TORCH_ALLOCATION.search(str(error)):
        return True
    from_onnx = type(error).__module__.startswith("onnxruntime.")
    return from_onnx and _ONNX_ALLOCATION.search(str(error)) is not None


def release_cached() -> None:
    """Give the GPU memory that torch keeps for later back, so that another attempt or runtime finds it."""
    torch.cuda.empty_cache()
