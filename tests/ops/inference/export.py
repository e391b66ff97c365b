"""Networks as ``torch.export`` programs."""

from __future__ import annotations

import copy
import io

import torch
from torch import nn


def export_torch(network: nn.Module, stride: int) -> bytes:
    """Serialise a network with free batch and spatial sizes, the latter multiples of ``stride``."""
    side = 2 * stride
    multiples = {axis: stride * torch.export.Dim(f"n{axis}", min=1) for axis in (2, 3, 4)}
    shapes = ({0: torch.export.Dim.DYNAMIC, **multiples},)
    plain = copy.deepcopy(network).cpu().eval()
    program = torch.export.export(plain, (torch.zeros(2, 1, side, side, side),), dynamic_shapes=shapes)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()
