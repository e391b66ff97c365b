"""A transform as plain data: a JSON-able description and its arrays, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ops.registration.transforms import Affine, Chain, Displacement, Float32Array, Transform, Velocity
from ops.volume import Grid


def to_record(transform: Transform) -> tuple[dict[str, Any], dict[str, Float32Array]]:
    """Describe a transform.

    Returns
    -------
    description, arrays
        JSON-able ``{"parts": [...]}``, first part applied first, LPS mm of the fixed image → LPS mm of the moving; and
        the vectors of its fields, by the names that the description gives them.
    """
    parts = transform.parts if isinstance(transform, Chain) else (transform,)
    arrays: dict[str, Float32Array] = {}
    described = []
    for number, part in enumerate(parts):
        if isinstance(part, Affine):
            described.append({"kind": "affine", "matrix": part.matrix.tolist()})
        elif isinstance(part, Velocity | Displacement):
            name = f"vectors_{number}"
            arrays[name] = part.vectors
            grid = {"shape": list(part.grid.shape), "affine": part.grid.affine.tolist()}
            described.append({"kind": type(part).__name__.lower(), "grid": grid, "vectors": name})
        else:
            raise TypeError(f"no record of a {type(part).__name__}")
    return {"parts": described}, arrays


def from_record(description: Mapping[str, Any], arrays: Mapping[str, Float32Array]) -> Transform:
    """Rebuild the transform that :func:`to_record` described.

    Raises
    ------
    ValueError
        Unknown kind, or values that make no valid transform.
    KeyError
        A field's vectors are missing.
    """
    parts = tuple(_part(part, arrays) for part in description["parts"])
    return parts[0] if len(parts) == 1 else Chain(parts)


def _part(part: Mapping[str, Any], arrays: Mapping[str, Float32Array]) -> Transform:
    """One part of a chain."""
    if part["kind"] == "affine":
        return Affine(part["matrix"])
    kinds = {"velocity": Velocity, "displacement": Displacement}
    if part["kind"] not in kinds:
        raise ValueError(f"unknown kind of transform {part['kind']!r}")
    shape, affine = part["grid"]["shape"], part["grid"]["affine"]
    return kinds[part["kind"]](Grid(tuple(shape), affine), arrays[part["vectors"]])
