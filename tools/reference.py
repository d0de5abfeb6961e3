"""Write docs/methods/*.md and the type stub of fallline.optim from the registry: ``make docs``. A test checks that they are fresh."""

from __future__ import annotations

import re
from pathlib import Path

import fallline
from fallline.core.method import Method

ROOT = Path(__file__).parent.parent
HOME, STUB = ROOT / "docs" / "methods", ROOT / "src" / "fallline" / "optim.pyi"


def page(entry: Method) -> str:
    """A method's page, in Markdown with LaTeX."""
    rows = [
        f"| `{name}` | {default!r} | {entry.domain(name) if name in entry.hypers else 'option'} | {entry.space.get(name, '')} |"
        for name, default in entry.defaults.items()
    ]
    claims = [f"- {c.text} ({c.where})" for c in entry.claims]
    notes = [f"\n{entry.card.notes}\n"] if entry.card.notes else []
    return "\n".join(
        [
            f"# {entry.label}",
            "",
            _markdown(entry.doc),
            "",
            f"*{entry.card.title}* ({entry.card.year}), {entry.card.source}.",
            *notes,
            "",
            f"`fallline.optim.{entry.label}`, method `{entry.name}`, family `{entry.family}`. "
            f"State: {entry.state_bytes():g} bytes per float32 parameter. Reach: {entry.reach.name.lower()}.",
            "",
            "| hyperparameter | default | allowed | search range |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
            f"Claims, checked by `fallline claims {entry.name}`:",
            "",
            *claims,
            "",
        ]
    )


def index() -> str:
    """The table of all methods."""
    rows = [
        f"| [{m.label}]({name}.md) | {m.family} | {m.summary} | {m.state_bytes():g} | {m.reach.name.lower()} |"
        for name, m in fallline.METHODS.items()
    ]
    head = ["# Methods", "", "| method | family | idea | bytes of state | reach |", "| --- | --- | --- | --- | --- |"]
    return "\n".join([*head, *rows, "", "Written by `make docs` from the registry.", ""])


def _markdown(doc: str) -> str:
    """reStructuredText maths -> Markdown maths."""

    def block(match: re.Match[str]) -> str:
        lines = [line.strip() for line in match[1].strip().splitlines()]
        return "$$\n" + "\n".join(lines) + "\n$$\n"

    doc = re.sub(r"\.\. math::((?:[ \t]+\S.*)?(?:\n(?:[ \t]+\S.*|[ \t]*(?=\n[ \t]+\S)))*)", block, doc)
    return re.sub(r":math:`([^`]*)`", r"$\1$", doc).replace("``", "`").strip()


def stub() -> str:
    """The signatures of the drop-in classes, for editors and type checkers: the classes themselves are made at run time."""
    lines = [
        "# Written by `make docs` from the registry.",
        "from typing import Any, ClassVar",
        "",
        "from fallline.core.execute import Fuse",
        "from fallline.core.guard import Policy",
        "from fallline.core.method import Method",
        "from fallline.core.optimizer import Alias, Optimizer",
        "from fallline.core.storage import Rounding",
        "from fallline.core.types import Hyper",
        "",
        "def aliases_of(entry: Method) -> dict[str, Alias]: ...",
        "",
        "class DropIn(Optimizer):",
        "    method: ClassVar[Method]",
    ]
    for entry in sorted(fallline.METHODS.values(), key=lambda m: m.label):
        cls = getattr(fallline.optim, entry.label)
        lines += ["", f"class {entry.label}(DropIn):", "    def __init__("]
        lines += ["        self,", "        params: Any,"]
        for argument in list(cls.__signature__.parameters.values())[1:]:
            if argument.name == "maximize":
                lines.append("        *,")
            lines.append(f"        {argument.name}: {_type(entry, argument.name, argument.default)} = ...,")
        lines.append("    ) -> None: ...")
    return "\n".join([*lines, ""])


def _type(entry: Method, name: str, default: object) -> str:
    if name in fallline.optim.RUNNING:
        return str(fallline.optim.RUNNING[name].annotation)
    if isinstance(default, tuple):
        return f"tuple[{', '.join(['Hyper'] * len(default))}]"
    return type(default).__name__ if name in entry.options else "Hyper"


def pages() -> dict[Path, str]:
    """Every generated file by path."""
    written = {HOME / f"{name}.md": page(m) for name, m in fallline.METHODS.items()}
    return written | {HOME / "README.md": index(), STUB: stub()}


if __name__ == "__main__":
    HOME.mkdir(parents=True, exist_ok=True)
    for stale in set(HOME.glob("*.md")) - set(pages()):
        stale.unlink()
    for path, text in pages().items():
        path.write_text(text)
