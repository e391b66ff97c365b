"""Why a result is stale: what differs between it and what would answer now.

A reason is one text for people that is its own code too: it holds versions, values of options and digests of models,
but nothing of a single case, so that reasons can be counted over a population.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from storage.records import ResultRecord, canonical_json
from tasks.case import Case, Recipe

DIGEST_DIGITS = 6
"""Digits of a model's digest in a reason."""


def reasons(earlier: ResultRecord, present: Case | ResultRecord) -> tuple[str, ...]:
    """Name what changed between a result and the case to be computed, or the result that replaced it.

    Parameters
    ----------
    earlier
        A result as the ledger keeps it.
    present
        What the planner wants now, or another result of the same case.

    Returns
    -------
    tuple of str
        Programme, policy, models, stages, then whether the study can be evaluated, its inputs and header facts, e.g.
        ``stage score 1→2``. Empty exactly when the fingerprints are equal.

    Notes
    -----
    Results do not keep the header facts they were made with, but their fingerprint covers them: it is calculated again
    with the present facts of a `Case`, which tells whether those changed. Between two results it is inferred: facts
    (of a refused study: its files or the details of the refusal) are named only when nothing else differs.
    """
    if earlier.fingerprint == present.fingerprint:
        return ()
    then, now = _recipe(earlier), _recipe(present)
    found = [*_recipe_changes(then, now), *_input_changes(earlier, present)]
    if isinstance(present, Case) and earlier.roles:
        if then.fingerprint(inputs=earlier.inputs, facts=dict(present.facts)) != earlier.fingerprint:
            found.append("header facts changed")
    elif not found:
        found.append("header facts changed" if earlier.roles else f"refused ({earlier.reason}) on other grounds")
    return tuple(found)


def _recipe(source: Case | ResultRecord) -> Recipe:
    if isinstance(source, Case):
        return source.recipe
    return Recipe(source.programme, source.programme_version, source.policy, tuple(source.stages), source.models)


def _recipe_changes(then: Recipe, now: Recipe) -> Iterator[str]:
    if then.version != now.version:
        yield f"programme {then.version}→{now.version}"
    yield from _changes("policy", _flat(then.policy), _flat(now.policy))
    yield from _changes("model", _shortened(then.models), _shortened(now.models))
    before, after = ({stage["name"]: stage["version"] for stage in recipe.stages} for recipe in (then, now))
    yield from _changes("stage", before, after)
    if list(before) != list(after) and set(before) == set(after):
        yield "stages in another order"
    parameters = {stage["name"]: _flat(stage["parameters"]) for stage in now.stages}
    for stage in then.stages:
        if stage["name"] in parameters:
            yield from _changes(f"stage {stage['name']}", _flat(stage["parameters"]), parameters[stage["name"]])


def _changes(kind: str, then: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    for name in dict.fromkeys([*then, *now]):
        if name not in now:
            yield f"{kind} {name} removed"
        elif name not in then:
            yield f"{kind} {name} added"
        elif then[name] != now[name]:
            yield f"{kind} {name} {then[name]}→{now[name]}"


def _flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Texts of options by dotted name."""
    found: dict[str, str] = {}
    for name, value in options.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value if isinstance(value, str) else canonical_json(value)
    return found


def _shortened(models: Mapping[str, str]) -> dict[str, str]:
    return {name: digest[:DIGEST_DIGITS] for name, digest in models.items()}


def _input_changes(earlier: ResultRecord, present: Case | ResultRecord) -> Iterator[str]:
    if earlier.roles and present.roles:
        yield from _series_changes(earlier, present)
        return
    then, now = (_evaluability(source) for source in (earlier, present))
    if then != now:
        yield f"{then} before, {now} now"


def _evaluability(source: Case | ResultRecord) -> str:
    if isinstance(source, Case) or source.roles:
        return "evaluable"
    return f"refused ({source.reason})"


def _series_changes(earlier: ResultRecord, present: Case | ResultRecord) -> Iterator[str]:
    for role in dict.fromkeys([*earlier.inputs, *present.inputs]):
        if role not in present.inputs or role not in earlier.inputs:
            yield f"input {role} {'added' if role in present.inputs else 'removed'}"
        elif earlier.inputs[role] != present.inputs[role]:
            same_series = earlier.roles[role] == present.roles[role]
            yield f"input {role} changed" if same_series else f"series chosen for {role} changed"
