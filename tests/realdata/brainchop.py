"""MindGrab, the brain-extraction network of brainchop (MIT), as a torch module and as a bundle.

A MeshNet (Fedorov 2017, IJCNN [R]): dilated 3×3×3 convolutions, each with the mean and variance of its channels over
the whole volume taken out (GroupNorm with one channel a group and no weights) and a GELU. Because of the former it sees
a volume whole, never in windows.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import conv3d

from storage.models import (
    InputContract,
    IntendedUse,
    Manifest,
    ModelBundle,
    OutputContract,
    Quality,
    QuantileWindow,
)

SIDE = 256  # voxels of 1 mm: what it was trained on, FreeSurfer's conformed size


class DilatedConv(nn.Module):
    """A 3×3×3 convolution of dilation d as an ordinary one over d³ interleaved sub-volumes.

    The same sums, with zero padding in the same places. torch on a CPU has fast kernels for ordinary convolutions only:
    on 64³, 15 to 15 channels, dilation 16 took 1.6 s as it is and 0.3 s so.
    """

    def __init__(self, weight: Tensor, dilation: int) -> None:
        super().__init__()
        self.weight, self.dilation = nn.Parameter(weight), dilation

    def forward(self, x: Tensor) -> Tensor:
        d = self.dilation
        n, c, z, y, w = x.shape
        parts = x.reshape(n, c, z // d, d, y // d, d, w // d, d).permute(0, 3, 5, 7, 1, 2, 4, 6)
        out = conv3d(parts.reshape(n * d**3, c, z // d, y // d, w // d), self.weight, padding=1)
        whole = out.reshape(n, d, d, d, -1, z // d, y // d, w // d).permute(0, 4, 5, 1, 6, 2, 7, 3)
        return whole.reshape(n, -1, z, y, w)


class MindGrab(nn.Module):
    """The network for Popscan's axes ``(z up, y back, x left)``; its own are left, down, forward."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.layers(x.flip(2, 3).permute(0, 1, 4, 2, 3))
        return logits.permute(0, 1, 3, 4, 2).flip(2, 3)


def load_mindgrab(folder: Path) -> MindGrab:
    """Read ``model.json`` and ``model.bin`` of TensorFlow.js: kernels ``(z, y, x, in, out)`` one after the other."""
    topology = json.loads((folder / "model.json").read_text())["modelTopology"]["model_config"]["config"]["layers"]
    rest = torch.from_numpy(np.fromfile(folder / "model.bin", "<f4"))
    channels, layers = 1, []
    for layer in topology[1:]:
        config = layer["config"]
        if layer["class_name"] == "Activation":
            layers.append(nn.GELU())
            continue
        shape = (*config["kernel_size"], channels, config["filters"])
        kernel, rest = rest[: int(np.prod(shape))], rest[int(np.prod(shape)) :]
        weight, channels = kernel.reshape(shape).permute(4, 3, 0, 1, 2).contiguous(), config["filters"]
        if config["name"].endswith("_gn"):
            layers += [DilatedConv(weight, config["dilation_rate"][0]), nn.GroupNorm(channels, channels, affine=False)]
        else:
            output = nn.Conv3d(weight.shape[1], channels, 1)
            output.weight, output.bias = nn.Parameter(weight), nn.Parameter(rest[:channels].clone())
            layers.append(output)
            rest = rest[channels:]
    assert len(rest) == 0
    return MindGrab(layers).eval()


def mindgrab_bundle(folder: Path, side: int = SIDE) -> ModelBundle:
    """Bundle of the network as a ``torch.export`` program for a cube of ``side`` mm."""
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(load_mindgrab(folder), (torch.zeros(1, 1, side, side, side),)), buffer)
    weights = buffer.getvalue()
    manifest = Manifest(
        name="mindgrab",
        version="1.0.0",
        sha256=hashlib.sha256(weights).hexdigest(),
        runtime="torch",
        file="program.pt2",
        input=InputContract(
            units="a.u.",
            window=QuantileWindow(quantiles=(0.02, 0.98)),
            spacing_mm=(1.0, 1.0, 1.0),
            patch_shape=(side, side, side),
        ),
        output=OutputContract(labels=("background", "brain")),
        intended_use=IntendedUse(
            statement="Research use only: brain extraction",
            modality="MR",
            anatomy="head",
            contrast_agent=False,
            slice_spacing_mm=(0.5, 2.0),
        ),
        licence="MIT",
        provenance={"source": "neuroneural/brainchop, mindgrab"},
        quality=(Quality(metric="brain volume, cm3", value=1607.0, data="t1_crop.nii.gz", n=1),),
    )
    return ModelBundle(manifest, weights)
