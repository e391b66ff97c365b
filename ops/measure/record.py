"""The answer of one measurement on one case: values, units, named choices and inputs, or the reason for none."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ops.measure.errors import NotEvaluableError
from ops.measure.value import MeasuredValue
from ops.verdict import ResultStatus

_CODE = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class MeasurementRecord:
    """Everything SPEC §0.4 asks of a result.

    Attributes
    ----------
    algorithm, version
        What measured, e.g. ``aneurysm``, and its version.
    status, reason, detail
        ``ok``, or why there is no answer: a stable snake_case code and a sentence for a person.
    measurements
        Named values. Those measured before a refusal are kept; a single one may be missing with its own reason.
    flags
        Quality-control codes, e.g. ``low_confidence``.
    policy
        Every named choice that can change a value; plain JSON.
    inputs
        UIDs of the series the values come from, in the order of the algorithm's arguments.

    Raises
    ------
    ValueError
        Two measurements of one name, a reason without need or a need without reason, a code that is none, or a
        policy that is not plain JSON.
    """

    algorithm: str
    version: str
    status: ResultStatus = ResultStatus.OK
    reason: str = ""
    detail: str = ""
    measurements: tuple[MeasuredValue, ...] = ()
    flags: tuple[str, ...] = ()
    policy: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        owner = f"record of {self.algorithm!r}"
        if not _CODE.fullmatch(self.algorithm) or not self.version:
            raise ValueError(f"{owner}: algorithm must be a snake_case name, and version not empty: {self.version!r}")
        if (self.status is ResultStatus.OK) != (self.reason == ""):
            raise ValueError(f"{owner}: status {self.status} does not go with reason {self.reason!r}")
        for code in (*self.flags, *([self.reason] if self.reason else [])):
            if not _CODE.fullmatch(code):
                raise ValueError(f"{owner}: {code!r} is not a snake_case code")
        names = [item.name for item in self.measurements]
        if len(set(names)) < len(names):
            raise ValueError(f"{owner}: a measurement occurs twice: {sorted(names)}")
        for item in self.measurements:
            if isinstance(item.value, float) and not math.isfinite(item.value):
                raise ValueError(f"{owner}: {item.name} is {item.value}; give a reason in place of it")
        json.dumps(self.policy, allow_nan=False)

    def __getitem__(self, name: str) -> float | str | None:
        """Value of the measurement ``name``; None when it could not be measured, KeyError when there is none."""
        return self.measurement(name).value

    def measurement(self, name: str) -> MeasuredValue:
        """Measurement ``name`` with unit, status and reason.

        Raises
        ------
        KeyError
            No measurement has this name.
        """
        for item in self.measurements:
            if item.name == name:
                return item
        raise KeyError(f"{self.algorithm} has no measurement {name!r}, only {[m.name for m in self.measurements]}")

    @classmethod
    def refused(cls, algorithm: str, version: str, error: NotEvaluableError, **known: Any) -> MeasurementRecord:
        """Record of an input that cannot be measured; ``known`` are fields known so far (policy, inputs …)."""
        return cls(algorithm, version, error.status, error.reason, error.detail, **known)

    def to_json(self) -> str:
        """JSON text from which `from_json` reads an equal record."""
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> MeasurementRecord:
        """Read back what `to_json` wrote.

        Raises
        ------
        ValueError, KeyError, TypeError
            Not a record.
        """
        return cls._from_plain(json.loads(text))

    def to_row(self) -> dict[str, Any]:
        """One row for a Parquet table with the schema `parquet_schema`, which `from_row` reads without loss."""
        plain = asdict(self)
        plain["policy"] = json.dumps(self.policy, allow_nan=False)
        plain["flags"], plain["inputs"] = list(self.flags), list(self.inputs)
        plain["measurements"] = [_split_value(item) for item in plain["measurements"]]
        return plain

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> MeasurementRecord:
        """Read back one row of `to_row`."""
        plain = dict(row)
        plain["policy"] = json.loads(plain["policy"])
        plain["measurements"] = [_join_value(item) for item in plain["measurements"]]
        return cls._from_plain(plain)

    @classmethod
    def _from_plain(cls, plain: dict[str, Any]) -> MeasurementRecord:
        measurements = tuple(
            MeasuredValue(**{**item, "status": ResultStatus(item["status"])}) for item in plain["measurements"]
        )
        return cls(
            **{
                **plain,
                "status": ResultStatus(plain["status"]),
                "measurements": measurements,
                "flags": tuple(plain["flags"]),
                "inputs": tuple(plain["inputs"]),
            }
        )


def _split_value(item: dict[str, Any]) -> dict[str, Any]:
    value = item.pop("value")
    is_text = isinstance(value, str)
    return item | {"number": None if is_text else value, "text": value if is_text else None}


def _join_value(item: Mapping[str, Any]) -> dict[str, Any]:
    plain = dict(item)
    number, text = plain.pop("number"), plain.pop("text")
    return plain | {"value": number if text is None else text}


def parquet_schema() -> Any:
    """``pyarrow.Schema`` of `MeasurementRecord.to_row`, the same for every algorithm."""
    import pyarrow as pa

    value = pa.struct(
        [
            ("name", pa.string()),
            ("number", pa.float64()),
            ("text", pa.string()),
            ("unit", pa.string()),
            ("status", pa.string()),
            ("reason", pa.string()),
        ]
    )
    texts = {name: pa.string() for name in ("algorithm", "version", "status", "reason", "detail", "policy")}
    lists = {"flags": pa.list_(pa.string()), "inputs": pa.list_(pa.string()), "measurements": pa.list_(value)}
    return pa.schema(texts | lists)
