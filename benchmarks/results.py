"""Files of results: written whole or not at all, read with an eye to what they are, merged."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

#: 2: commit, versions and load stand with each suite's limits, ``started`` says which a record's.
SCHEMA = 2


def save(path: Path, results: dict[str, Any]) -> None:
    """Whoever reads the file, and whenever this ends, finds the old results or the new ones."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(results, indent=1) + "\n")
    os.replace(part, path)


def read(path: Path) -> dict[str, Any]:
    """Results of suites, those of schema 1 as of this one.

    Raises:
        OSError: there is no such file.
        ValueError: it holds something else.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} isn't whole, or no JSON: {error}") from None
    if not isinstance(found, dict) or "schema" not in found:
        raise ValueError(f"{path} isn't of python -m benchmarks --json")
    if found["schema"] not in (1, SCHEMA):
        raise ValueError(f"{path} has schema {found['schema']}; this reads 1 and {SCHEMA}")
    if not {"limits", "records"} <= found.keys():
        raise ValueError(f"{path} has no results of suites, of which alone there are tables")
    return _upgraded(found) if found["schema"] == 1 else found


def _upgraded(old: dict[str, Any]) -> dict[str, Any]:
    told = {key: old[key] for key in ("started", "command", "versions")}
    told |= {**old["revision"], "stale": False, "load": old.get("load", 0.0)}
    return {
        "schema": SCHEMA,
        **{key: old.get(key, False) for key in ("quick", "awake", "machine")},
        "limits": [limits | told for limits in old["limits"]],
        "records": [record | {"started": old["started"]} for record in old["records"]],
    }


def merged(many: list[dict[str, Any]]) -> dict[str, Any]:
    """Runs as one: a later one's problem of a suite on so many threads replaces an earlier one's.

    Raises:
        ValueError: a quick run among real ones, other machines, or CPUs that slept and CPUs that
            didn't.
    """
    first = many[0]
    points: dict[Any, list[dict[str, Any]]] = {}
    limits: dict[Any, dict[str, Any]] = {}
    for one in many:
        for key in ("quick", "machine", "awake"):
            if one[key] != first[key]:
                raise ValueError(f"the files differ in {key}: {first[key]}, {one[key]}")
        own: dict[Any, list[dict[str, Any]]] = {}
        for record in one["records"]:
            # In `scaling` a problem is one race of entries with threads of their own.
            threads = None if record["suite"] == "scaling" else record["threads"]
            own.setdefault((record["suite"], threads, record["name"]), []).append(record)
        points |= own
        limits |= {(r["suite"], r["threads"], r["started"]): r for r in one["limits"]}
    records = [record for point in points.values() for record in point]
    kept = [r for r in limits.values() if any(belongs(record, r) for record in records)]
    return {**first, "limits": kept, "records": records}


def belongs(record: dict[str, Any], limits: dict[str, Any]) -> bool:
    """Whether a record comes from the process that measured these limits."""
    return (
        record["suite"] == limits["suite"]
        and record.get("started") == limits.get("started")
        and (record["threads"] == limits["threads"] or record["suite"] == "scaling")
    )


def limits_of(results: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """The limits measured in the process of a record."""
    return next((r for r in results["limits"] if belongs(record, r)), {})
