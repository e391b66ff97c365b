"""Loss of a segmentation network with small classes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import nll_loss

# Added to numerator and denominator of Dice so that a class absent from image and prediction costs nothing.
DICE_SMOOTHING = 1.0


def dice_and_cross_entropy(logits: Tensor, labels: Tensor, class_weights: Tensor) -> Tensor:
    """Sum of the soft Dice loss over the foreground classes and weighted cross entropy.

    Parameters
    ----------
    logits
        ``(n, classes, z, y, x)``.
    labels
        ``(n, z, y, x)`` int64.
    class_weights
        ``(classes,)`` weights of the cross entropy.

    Returns
    -------
    Tensor
        Scalar. Dice is taken over the whole batch, so a class missing from one patch is not a jump in the loss.
    """
    classes = logits.shape[1]
    log_probabilities = logits.log_softmax(dim=1)
    flat = log_probabilities.exp().transpose(0, 1).reshape(classes, -1)
    flat_labels = labels.reshape(-1)
    size = torch.bincount(flat_labels, minlength=classes)
    picked = flat.gather(0, flat_labels[None])[0]
    shared = torch.zeros(classes, dtype=flat.dtype).index_add(0, flat_labels, picked)
    dice = (2 * shared + DICE_SMOOTHING) / (flat.sum(dim=1) + size + DICE_SMOOTHING)
    return 1 - dice[1:].mean() + nll_loss(log_probabilities, labels, weight=class_weights)
