"""What to do when memory runs out: compute the same in less, and say so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from ops.inference.batch_size import best_batch
from ops.inference.memory import is_out_of_memory, release_cached
from ops.inference.predictor import Precision, TensorPredictor
from ops.inference.sliding_window import Shape, Tiling

RungName = Literal["full", "tiled", "half", "cpu"]
Answer = TypeVar("Answer")
Open = Callable[[str, Precision], TensorPredictor]
"""``open(device, precision)``: a predictor, ready; kept by the caller, as a rung may be needed again."""


@dataclass(frozen=True)
class Rung:
    """One way to compute.

    Attributes
    ----------
    name
        ``full``: volume, sums and the best batch on the device. ``tiled``: one window at a time there, volume and
        sums in host memory. ``half``: the same in half precision. ``cpu``: all in host memory.
    device
        ``"cpu"``, ``"cuda:0"`` …
    precision
        Of the network.
    """

    name: RungName
    device: str
    precision: Precision = "float32"


@dataclass(frozen=True)
class Descent:
    """How a case was computed.

    Attributes
    ----------
    rung
        That gave the answer.
    failed
        Rungs without enough memory before it, each with the runtime's message.
    """

    rung: RungName
    failed: tuple[tuple[RungName, str], ...] = ()

    @property
    def flags(self) -> tuple[str, ...]:
        """For the case's record: none when the first rung held."""
        return (f"out_of_memory_{self.rung}",) if self.failed else ()


def rungs(device: str, half: Precision | None) -> tuple[Rung, ...]:
    """Ways to compute on a device, best first.

    Parameters
    ----------
    device
        ``"cpu"``, ``"cuda:0"`` … A CPU has one rung: half precision there saves no memory worth its time.
    half
        The half precision the runtime offers; None when it computes a model only as it was stored (ONNX).
    """
    on_cpu = Rung("cpu", "cpu")
    if device == "cpu":
        return (on_cpu,)
    in_half = (Rung("half", device, half),) if half else ()
    return (Rung("full", device), Rung("tiled", device), *in_half, on_cpu)


def descend(
    ladder: Sequence[Rung], open_predictor: Open, window: Shape, compute: Callable[[TensorPredictor, Tiling], Answer]
) -> tuple[Answer, Descent]:
    """Compute on the first rung with enough memory.

    Parameters
    ----------
    ladder
        From :func:`rungs`.
    open_predictor
        Gives the model for a rung.
    window
        Window size ``(z, y, x)``.
    compute
        The whole work on the device, from resampling to labels: ``compute(predictor, tiling)``. Called again from
        the start on the next rung.

    Returns
    -------
    answer, descent
        What ``compute`` gave, and where.

    Raises
    ------
    Exception
        Any error that is not about memory, at once; the last rung's, if that has too little memory as well.
    """
    failed: list[tuple[RungName, str]] = []
    for rung in ladder:
        try:
            predictor = open_predictor(rung.device, rung.precision)
            return compute(predictor, _tiling(rung, predictor, window)), Descent(rung.name, tuple(failed))
        except Exception as error:
            if rung is ladder[-1] or not is_out_of_memory(error):
                raise
            failed.append((rung.name, f"{type(error).__name__}: {error}"))
        release_cached()  # after the handler: the error's traceback held the tensors
    raise ValueError("a ladder needs at least one rung")


def _tiling(rung: Rung, predictor: TensorPredictor, window: Shape) -> Tiling:
    """Best batch on the first rung, one window at a time on the others."""
    if rung.name == "full":
        return Tiling(window, batch=best_batch(predictor, window))
    return Tiling(window, on_host=True)
