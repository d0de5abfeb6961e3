"""Reading a page back: its tags, its texts and the exact numbers in its tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "br", "hr", "img", "link", "input"}


@dataclass
class Cell:
    """A table cell: its text, and (value, text) of every number in it."""

    text: str = ""
    numbers: list[tuple[float, str]] = field(default_factory=list)

    @property
    def values(self) -> list[float]:
        return [value for value, _ in self.numbers]


class Page(HTMLParser):
    """Parses a page; raises where tags do not balance."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.tables: dict[str, list[list[list[Cell]]]] = {}
        self.data: list[tuple[float, str]] = []
        self._table = ""
        self._value: float | None = None
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs) -> None:
        attributes = {k: v or "" for k, v in attrs}
        self.tags.append((tag, attributes))
        if tag in VOID:
            return
        self.open.append(tag)
        if tag == "table":
            self._table = attributes.get("class", "")
            self.tables.setdefault(self._table, []).append([])
        elif tag == "tr":
            self.tables[self._table][-1].append([])
        elif tag in ("td", "th"):
            self.tables[self._table][-1][-1].append(Cell())
        elif tag == "data":
            self._value = float(attributes["value"])

    def handle_startendtag(self, tag: str, attrs) -> None:
        self.tags.append((tag, {k: v or "" for k, v in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> without a start"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()
        if tag == "data":
            self._value = None

    def handle_data(self, text: str) -> None:
        if "style" in self.open or not text.strip():
            return
        self.text.append(text)
        cells = self.tables[self._table][-1][-1] if "tr" in self.open else []
        if cells:
            cells[-1].text += text
        if self._value is not None:
            self.data.append((self._value, text))
            if cells:
                cells[-1].numbers.append((self._value, text))

    def rows(self, kind: str) -> list[list[list[Cell]]]:
        """The bodies of all tables of a class: lists of rows of cells."""
        return [table[1:] for table in self.tables[kind]]
