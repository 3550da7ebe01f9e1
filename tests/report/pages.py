"""Read a report as a browser does, with the HTML parser of the standard library."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

VOID: Final = frozenset("meta img br rect line polyline".split())


@dataclass
class Page(HTMLParser):
    """The elements and texts of a page.

    Attributes:
        elements: each start tag with its attributes, in order.
        texts: texts between tags, without those of `style`.
        style: text of the `style` element.
        unclosed: names of elements that are open at the end.
        headings: level and text of each heading.
    """

    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    style: str = ""
    unclosed: list[str] = field(default_factory=list)
    headings: list[tuple[int, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.unclosed.append(tag)
        if tag in ("h1", "h2", "h3", "h4"):
            self.headings.append((int(tag[1]), ""))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.unclosed and self.unclosed[-1] == tag, f"</{tag}> in {self.unclosed}"
        self.unclosed.pop()

    def handle_data(self, data: str) -> None:
        if self.unclosed and self.unclosed[-1] == "style":
            self.style += data
            return
        self.texts.append(data)
        if self.unclosed and self.unclosed[-1] in ("h1", "h2", "h3", "h4"):
            level, text = self.headings[-1]
            self.headings[-1] = level, text + data

    @property
    def text(self) -> str:
        """All texts, with single spaces."""
        return " ".join(" ".join(self.texts).split())

    def named(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of all elements of a name."""
        return [attributes for name, attributes in self.elements if name == tag]


def read_page(path: Path) -> Page:
    """Parse a report, whose elements must all be closed."""
    page = Page()
    page.feed(path.read_text())
    page.close()
    assert not page.unclosed
    return page
