"""Arguments of resources of Terraform's provider for Google, from its Python bindings.

The provider's own schema is in no package registry. `python -m tests.terraform.google_provider FOLDER`
writes `google_provider.json` for the resources that templates/terraform uses, from a folder that has
the package cdktf-cdktf-provider-google-beta, which is generated from the schema. It has 0.2 GB, hence it
is no dependency.
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any, Final

import hcl2

TERRAFORM: Final = Path(__file__).parents[2] / "templates" / "terraform"
TARGET: Final = Path(__file__).with_suffix(".json")
META_ARGUMENTS: Final = frozenset({"count", "depends_on", "for_each", "lifecycle", "provider"})
"""Arguments of Terraform itself."""

Blocks = dict[str, Any]


def load() -> Blocks:
    """The blocks of all files of the template, by kind; keys and strings without their quotes."""
    found: dict[str, list[Any]] = {}
    for path in sorted(TERRAFORM.glob("*.tf")):
        with path.open() as file:
            for kind, blocks in _plain(hcl2.load(file)).items():
                found.setdefault(kind, []).extend(blocks if isinstance(blocks, list) else [blocks])
    return found


def resources(blocks: Blocks) -> dict[str, Blocks]:
    """Resources by address (`google_storage_bucket.lake`); data sources begin with `data.`."""
    return {
        f"{prefix}{kind}.{name}": body
        for key, prefix in (("resource", ""), ("data", "data."))
        for block in blocks.get(key, ())
        for kind, named in block.items()
        for name, body in named.items()
    }


def problems(address: str, body: Blocks, schema: dict[str, Any]) -> list[str]:
    """Arguments of a resource that its schema does not know, and required ones that are missing."""
    kind = address.rpartition(".")[0]
    return list(_problems(address, body, schema[kind], kind))


def _problems(where: str, body: Blocks, schema: dict[str, Any], part: str) -> list[str]:
    arguments: dict[str, bool] = schema[part]
    found = [
        f"{where}: unknown {name}" for name in body if name not in arguments.keys() | META_ARGUMENTS
    ]
    found += [
        f"{where}: missing {name}"
        for name, needed in arguments.items()
        if needed and name not in body
    ]
    for name, value in body.items():
        if f"{part}.{name}" in schema:
            for block in value if isinstance(value, list) else [value]:
                found += _problems(f"{where}.{name}", block, schema, f"{part}.{name}")
    return found


def _plain(node: Any) -> Any:
    if isinstance(node, dict):
        return {
            _plain(key): _plain(value) for key, value in node.items() if not key.startswith("__")
        }
    if isinstance(node, list):
        return [_plain(one) for one in node]
    return node.strip('"') if isinstance(node, str) else node


def _read_schema(package: Path, kind: str, body: Blocks) -> dict[str, Any]:
    folder = kind.replace("data.", "data_")
    tree = ast.parse((package / folder / "__init__.py").read_text())
    classes = {
        node.name.lower(): _arguments_of(init)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for init in node.body
        if isinstance(init, ast.FunctionDef) and init.name == "__init__"
    }
    name = folder.replace("_", "")
    found = {kind: classes[f"{name}config"]}
    _add_blocks(found, classes, kind, name, body)
    return found


def _add_blocks(found: dict[str, Any], classes: Any, part: str, name: str, body: Blocks) -> None:
    for key, value in body.items():
        inner = name + key.replace("_", "")
        if inner in classes and key not in META_ARGUMENTS:
            found[f"{part}.{key}"] = classes[inner]
            for block in value if isinstance(value, list) else [value]:
                _add_blocks(found, classes, f"{part}.{key}", inner, block)


def _arguments_of(init: ast.FunctionDef) -> dict[str, bool]:
    own = {"connection", "id", "provisioners"} | META_ARGUMENTS
    pairs = zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True)
    return {one.arg: default is None for one, default in pairs if one.arg not in own}


if __name__ == "__main__":
    PACKAGE = Path(sys.argv[1]) / "cdktf_cdktf_provider_google_beta"
    SCHEMA = {
        address.rpartition(".")[0]: _read_schema(PACKAGE, address.rpartition(".")[0], body)
        for address, body in resources(load()).items()
    }
    TARGET.write_text(json.dumps(SCHEMA, indent=1, sort_keys=True) + "\n")
