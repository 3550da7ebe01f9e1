"""The flex templates as Dataflow sees them, and what its API accepts, from its Discovery document.

`python -m tests.engines.dataflow_api DOCUMENT` writes `dataflow_api.json` from the document that
google-api-python-client bundles (`googleapiclient/discovery_cache/documents/dataflow.v1b3.json`).
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any, Final

import jsonschema

TEMPLATES: Final = Path(__file__).parents[2] / "templates" / "dataflow"
TARGET: Final = Path(__file__).with_suffix(".json")
ROOTS: Final = ("TemplateMetadata", "ContainerSpec", "LaunchFlexTemplateRequest")


def definitions(document: Path) -> dict[str, Any]:
    """The schemas of `ROOTS` and of what they refer to; unlike the API, they allow no other keys."""
    schemas = json.loads(document.read_text())["schemas"]
    found: dict[str, Any] = {}
    names = list(ROOTS)
    while names:
        name = names.pop()
        if name not in found:
            found[name] = _convert(schemas[name], names)
    return dict(sorted(found.items()))


def validate(value: object, root: str) -> None:
    """Raise `jsonschema.ValidationError` if a value is not what the API accepts."""
    schema = {"$ref": f"#/$defs/{root}", "$defs": json.loads(TARGET.read_text())}
    jsonschema.validate(value, schema)


def metadata(template: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((TEMPLATES / f"{template}.json").read_text())
    return found


def parameters(template: str) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in metadata(template)["parameters"]}


def problems(template: str, given: dict[str, str]) -> list[str]:
    """What Dataflow reports about parameters, before it starts a launcher."""
    known = parameters(template)
    found = [f"unknown {name}" for name in given.keys() - known.keys()]
    found += [
        f"missing {n}" for n, one in known.items() if not one["isOptional"] and n not in given
    ]
    return found + [
        f"value of {name}"
        for name, value in given.items()
        for regex in known.get(name, {}).get("regexes", ())
        if not re.fullmatch(regex, value)
    ]


def _convert(node: dict[str, Any], names: list[str]) -> dict[str, Any]:
    if "$ref" in node:
        names.append(node["$ref"])
        return {"$ref": f"#/$defs/{node['$ref']}"}
    schema: dict[str, Any] = {
        k: node[k] for k in ("type", "enum") if k in node and node[k] != "any"
    }
    if "items" in node:
        schema["items"] = _convert(node["items"], names)
    if "properties" in node:
        properties = node["properties"].items()
        schema["properties"] = {key: _convert(value, names) for key, value in properties}
        schema["additionalProperties"] = False
    elif isinstance(node.get("additionalProperties"), dict):
        schema["additionalProperties"] = _convert(node["additionalProperties"], names)
    return schema


if __name__ == "__main__":
    TARGET.write_text(json.dumps(definitions(Path(sys.argv[1])), indent=1) + "\n")
