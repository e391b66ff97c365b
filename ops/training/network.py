"""A compact 3-D U-Net."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn.functional import interpolate

# Parameters of the leaky rectifier: the slope that nnU-Net uses (Isensee 2021 [R]).
NEGATIVE_SLOPE = 0.01


def _convolve(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """3×3×3 convolution, instance norm, leaky rectifier."""
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.InstanceNorm3d(outputs, affine=True),
        nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True),
    )


class UNet3d(nn.Module):
    """Encoder–decoder with additive skips (Çiçek 2016, MICCAI [R]; sums instead of concatenation halve the decoder).

    Parameters
    ----------
    classes
        Output channels (logits).
    widths
        Channels per level, finest first; each level halves the resolution, so input sizes must be divisible by
        ``2 ** (len(widths) - 1)``.

    Notes
    -----
    Instance norm, because batches are tiny and scanners differ in contrast. Downsampling by strided convolution,
    upsampling by trilinear interpolation of a 1×1×1 projection (no chequerboard). The finest level is thin, because
    it costs eight times as much a channel as the next.
    """

    def __init__(self, classes: int, widths: tuple[int, ...] = (8, 24, 48, 80, 112)) -> None:
        super().__init__()
        self.widths = widths
        pairs = list(pairwise(widths))
        self.stem = _convolve(1, widths[0])
        self.down = nn.ModuleList(nn.Sequential(_convolve(a, b, 2), _convolve(b, b)) for a, b in pairs)
        self.reduce = nn.ModuleList(nn.Conv3d(b, a, 1) for a, b in pairs)
        self.up = nn.ModuleList(_convolve(a, a) for a, _ in pairs)
        self.head = nn.Conv3d(widths[0], classes, 1)

    @property
    def stride(self) -> int:
        """Divisor of admissible input sizes."""
        return int(2 ** len(self.down))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n, 1, z, y, x)`` to logits ``(n, classes, z, y, x)``."""
        x = self.stem(x)
        skips = []
        for down in self.down:
            skips.append(x)
            x = down(x)
        for skip, reduce, up in zip(reversed(skips), reversed(self.reduce), reversed(self.up), strict=True):
            x = interpolate(reduce(x), scale_factor=2.0, mode="trilinear", align_corners=False)
            x = up(x + skip)
        logits: Tensor = self.head(x)
        return logits


def count_parameters(module: nn.Module) -> int:
    """Count the weights of a module."""
    return sum(p.numel() for p in module.parameters())
