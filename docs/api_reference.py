"""Write the reference of the Python API from its docstrings, and the types of its options."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from models.classify import ClassifyAndDecide
from pipeline.api import (
    Decider,
    Decisions,
    IncompleteRun,
    Lake,
    RouteFailed,
    RunSummary,
    route,
    steps,
)
from pipeline.explain import Decision
from transforms.config.run_options import CommandOptions, ObjectOptions
from transforms.core.option import Option, options_of
from transforms.fetch import FetchAndExamine
from transforms.place import Place

OPTIONS_MODULE: Final = Path(__file__).parents[1] / "pipeline" / "api" / "options.py"
REFERENCE_PAGE: Final = Path(__file__).parent / "api.md"
NO_KEYWORDS: Final = frozenset({"input", "lake", "quiet", "json"})
"""Options of `route` that are arguments of `pipeline.api.route`, or about the terminal."""
PATHS: Final = ("URI", "ROOT", "FILE", "FOLDER")
"""Placeholders of options whose values may be paths."""
WIDTH: Final = 100
INTRODUCTION: Final = """\
# Python API

<!-- Written by `make docs` from docs/api_reference.py and the docstrings of pipeline/api. -->

The package `pipeline.api` does from a program or a notebook what the commands do, with the same code and the
same messages. Importing it is cheap and changes neither signal handlers nor logging nor the import path.

```python
from pipeline.api import Decider, Lake, route

summary = route(["/data/incoming", "/data/late/1.dcm"], "/data/lake", policy="policy.yaml")
print(summary.equation, summary.destinations)

lake = Lake("/data/lake")
wrong = lake.decisions(["object_key", "destination"], where="NOT header_agrees").to_pandas()

with Decider() as decider:
    decision = decider.decide("image.dcm")
print(decision.destination, decision.probabilities, decision.explanation)
```

Examples that run as they are, on DICOM files of the pydicom packages:

| example | shows |
|---|---|
| [route_from_notebook.py](../examples/route_from_notebook.py) | cells of a notebook: route a list of paths, read the decisions with pandas, show an image and its thumbnail |
| [read_decisions.py](../examples/read_decisions.py) | current decisions as Arrow, pandas and polars, and in batches |
| [decide_one_object.py](../examples/decide_one_object.py) | a path, bytes and a pydicom data set, without Beam and without a lake |
| [own_sink.py](../examples/own_sink.py) | a Beam pipeline that decides objects and writes its own sink |

Names of the options are those of the command line ([options.md](options.md)), as keywords; None stands for the
default. What cannot be used raises `UsageError`, a `ValueError`, with the message that the command prints.
"""
SECTIONS: Final = ("Args", "Attributes", "Returns", "Yields", "Raises")
PUBLIC: Final = MappingProxyType(
    {
        "Route": (route, RunSummary, RouteFailed, IncompleteRun),
        "Read a lake": (Lake, Decisions),
        "Decide single objects": (Decider, Decision),
        "Steps for Beam pipelines": (
            steps.DecideObjects, FetchAndExamine, ClassifyAndDecide, Place,
        ),
    }
)  # fmt: skip


def reference_page() -> str:
    """Return the page on the Python API."""
    lines = [INTRODUCTION.rstrip()]
    for title, members in PUBLIC.items():
        lines += ["", f"## {title}"]
        if title.startswith("Steps"):
            lines += [
                "",
                "`from pipeline.api.steps import …`",
                "",
                *_body(inspect.getdoc(steps) or ""),
            ]
        for member in members:
            lines += ["", f"### `{member.__name__}`", "", *_described(member)]
    return "\n".join(lines) + "\n"


def _described(member: Any) -> Iterator[str]:
    """Yield the signature and docstring of a function, or of a class and its public methods."""
    if not inspect.isclass(member):
        yield from (*_signature(member.__name__, member), "", *_body(inspect.getdoc(member) or ""))
        return
    if issubclass(member, Exception):
        first, *more = _body(inspect.getdoc(member) or "")
        yield from (f"A `{member.__mro__[1].__name__}`. {first}", *more)
        return
    if "__init__" in vars(member):
        yield from (*_signature(member.__name__, member.__init__), "")
    yield from _body(inspect.getdoc(member) or "")
    public = {n: one for n, one in vars(member).items() if not n.startswith("_") and n != "expand"}
    properties = {n: one for n, one in public.items() if isinstance(one, property)}
    yield from ["", "**Properties**", ""] if properties else []
    for name, one in properties.items():
        yield f"- `{name}`: {_type_of(one)}. {_first_paragraph(one.fget)}"
    for name, one in public.items():
        if inspect.isfunction(one):
            yield from ("", f"#### `{name}`", "", *_signature(name, one), "")
            yield from _body(inspect.getdoc(one) or "")


def _type_of(one: property) -> str:
    annotation = inspect.signature(one.fget).return_annotation  # type: ignore[arg-type]
    return f"`{annotation}`"


def _first_paragraph(function: Callable[..., Any] | None) -> str:
    return " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split())


def _signature(name: str, function: Callable[..., Any]) -> list[str]:
    """Return the signature as a block of code, one parameter a line if it is long."""
    signature = inspect.signature(function)
    shown = [one for one in signature.parameters.values() if one.name != "self"]
    texts = [re.sub(r"^([*\w]+): '([^']*)'", r"\1: \2", str(one)) for one in shown]
    texts = [text.replace("<factory>", "...") for text in texts]
    for number, one in enumerate(shown):
        if one.kind is one.KEYWORD_ONLY:
            texts.insert(number, "*")
            break
    returned = signature.return_annotation
    tail = "" if name[0].isupper() or returned is inspect.Signature.empty else f" -> {returned}"
    line = f"{name}({', '.join(texts)}){tail}"
    if len(line) > WIDTH:
        inner = "\n".join(f"    {text}," for text in texts)
        line = f"{name}(\n{inner}\n){tail}"
    return ["```python", line, "```"]


def _body(docstring: str) -> Iterator[str]:
    """Yield a docstring of Google style as Markdown."""
    section: str | None = None
    for line in docstring.splitlines():
        if (title := line.removesuffix(":")) in SECTIONS and line.endswith(":"):
            section = title
            yield from (f"**{title}**", "")
        elif section is None or not line.startswith("    "):
            section = section if not line else None
            yield line
        elif section in ("Returns", "Yields"):
            yield line.strip()
        elif line.startswith("     "):
            yield f"  {line.strip()}"
        else:
            yield re.sub(r"^([\w*]+(?:, \w+)*):", r"- `\1`:", line.strip())


def options_module() -> str:
    """Return the module with the types of the options of `pipeline.api`."""
    own = [one for one in options_of(ObjectOptions)]
    names = {one.flag for one in own}
    more = [
        one
        for one in options_of(CommandOptions)
        if one.flag not in names and one.flag not in NO_KEYWORDS
    ]
    lines = [
        '"""Types of the options of `pipeline.api`.',
        "",
        "Written by `make docs` (docs/api_reference.py) from the options of the command line.",
        '"""',
        "",
        "from __future__ import annotations",
        "",
        "import os",
        "from collections.abc import Sequence",
        "from typing import Literal, TypeAlias, TypedDict",
        "",
        "StrPath: TypeAlias = str | os.PathLike[str]",
        "",
        "",
        "class ObjectKeywords(TypedDict, total=False):",
        '    """Options for reading and deciding one object."""',
        "",
        *_fields(own),
        "",
        "",
        "class RouteKeywords(ObjectKeywords, total=False):",
        '    """Options of `route`."""',
        "",
        *_fields(more),
    ]
    return "\n".join(lines) + "\n"


def _fields(options: Iterable[Option]) -> Iterator[str]:
    for one in options:
        yield from _annotated(one)
        text = textwrap.wrap(f'"""{one.declaration.help}', WIDTH - 10, break_on_hyphens=False)
        yield from (f"    {line}" for line in text[:-1])
        yield f'    {text[-1]}"""'


def _annotated(one: Option) -> list[str]:
    """Return the lines of a field as ruff formats them."""
    optional = " | None" if one.default is None else ""
    if one.declaration.choices:
        values = [f'"{choice}"' for choice in one.declaration.choices]
        line = f"    {one.flag}: Literal[{', '.join(values)}]{optional}"
        if len(line) <= WIDTH:
            return [line]
        return [f"    {one.flag}: Literal[", *(f"        {v}," for v in values), f"    ]{optional}"]
    is_path = one.kind is Path or one.declaration.metavar in PATHS
    kind = "StrPath" if is_path else one.kind.__name__
    return [f"    {one.flag}: {f'Sequence[{kind}]' if one.repeated else kind}{optional}"]
