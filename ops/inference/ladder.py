"""What to do when memory runs out: compute the same in less, and say so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from ops.inference.memory import is_out_of_memory, release_cached
from ops.inference.predictor import Precision

RungName = Literal["full", "tiled", "half", "cpu"]
Opened = TypeVar("Opened")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Rung:
    """One way to compute.

    Attributes
    ----------
    name
        ``full``: volumes, sums and the best batch on the device, shared with other cases. ``tiled``: one window at a
        time there, the sums in host memory. ``half``: the same in half precision. ``cpu``: all in host memory.
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
    ladder: Sequence[Rung], open_rung: Callable[[Rung], Opened], compute: Callable[[Opened], Answer]
) -> tuple[Answer, Descent]:
    """Compute on the first rung with enough memory.

    Parameters
    ----------
    ladder
        From :func:`rungs`.
    open_rung
        Gives what ``compute`` needs of a rung, such as the model; kept by the caller, as a rung may be needed again.
    compute
        The whole work on the device, from resampling to labels. Called again from the start on the next rung.

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
            return compute(open_rung(rung)), Descent(rung.name, tuple(failed))
        except Exception as error:
            if rung is ladder[-1] or not is_out_of_memory(error):
                raise
            failed.append((rung.name, f"{type(error).__name__}: {error}"))
        release_cached()  # after the handler: the error's traceback held the tensors
    raise ValueError("a ladder needs at least one rung")
