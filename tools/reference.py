"""Write docs/methods/*.md, docs/links.md, docs/reliability.md and the type stub of fallline.optim from the registries: ``make docs``.

A test checks that they are fresh.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import fallline
import fallline.transforms
from fallline.core.method import Method
from fallline.testing import CONTRACTS, PROMISES
from fallline.testing.promises import ELSEWHERE

ROOT = Path(__file__).parent.parent
HOME, STUB = ROOT / "docs" / "methods", ROOT / "src" / "fallline" / "optim.pyi"
RELIABILITY, LINKS = ROOT / "docs" / "reliability.md", ROOT / "docs" / "links.md"


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


def links() -> str:
    """The page of all links."""
    entries = []
    for name in fallline.transforms.__all__:
        made = getattr(fallline.transforms, name)
        arguments = str(inspect.signature(made, eval_str=False)).partition(" ->")[0].replace("'", "")
        entries += [f"## `{name}{arguments}`", "", _markdown(inspect.cleandoc(made.__doc__)), ""]
    head = [
        "# Links",
        "",
        "Steps from `fallline.transforms` that go into any chain, before, after or around a method:",
        "",
        "```python",
        "chain(clip_by_global_norm(1.0), adamw(lr=3e-4), average_ema(0.999))",
        "chain(add_noise(0.01), masked(clip_by_unit_norm(), lambda p: p.dim() > 1), sgd(lr=0.1, momentum=0.9))",
        "```",
        "",
    ]
    return "\n".join([*head, *entries, "Written by `make docs` from `fallline.transforms`.", ""])


def reliability() -> str:
    """The table of promises: what every optimizer keeps, and the contracts that test it."""
    rows = []
    tested = {number for contract in CONTRACTS.values() for number in contract.numbers}
    for number, promise in PROMISES.items():
        tests = [f"`{c.name}`" for c in CONTRACTS.values() if number in c.numbers]
        tests += [ELSEWHERE[number]] if number in ELSEWHERE else []
        rows.append(f"| {number} | {promise} | {', '.join(tests)} |")
    declared = [
        f"- {m.label}, `{name}`: {reason}" for m in fallline.METHODS.values() for name, reason in m.xfail.items()
    ]
    return "\n".join(
        [
            "# What every optimizer promises",
            "",
            f"{len(CONTRACTS)} contracts test {len(tested)} of {len(PROMISES)} promises on every registered method, each contract whose outcome can "
            "depend on it in every layout (`eager`, and the compiled ones).",
            "They ship with the package: `print(fallline.testing.check(my_method))` runs them on a method of yours.",
            "",
            "| | promise | contracts |",
            "| --- | --- | --- |",
            *rows,
            "",
            "A method that cannot keep a contract declares it, with the reason; the declaration fails once the contract holds:",
            "",
            *(declared or ["- none"]),
            "",
            "Written by `make docs` from `fallline.testing`.",
            "",
        ]
    )


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
        "    def torch_state_dict(self) -> dict[str, Any]: ...",
    ]
    for entry in sorted(fallline.METHODS.values(), key=lambda m: m.label):
        cls = getattr(fallline.optim, entry.label)
        lines += ["", f"class {entry.label}(DropIn):", "    def __init__("]
        lines += ["        self,", "        params: Any,"]
        for argument in list(cls.__signature__.parameters.values())[1:]:
            if argument.name == "maximize":
                lines.append("        *,")
            lines.append(f"        {argument.name}: {_type(entry, argument)} = ...,")
        lines.append("    ) -> None: ...")
    return "\n".join([*lines, ""])


def _type(entry: Method, argument: inspect.Parameter) -> str:
    if argument.kind is argument.KEYWORD_ONLY:
        return str(argument.annotation)
    if isinstance(argument.default, tuple):
        return f"tuple[{', '.join(['Hyper'] * len(argument.default))}]"
    return type(argument.default).__name__ if argument.name in entry.options else "Hyper"


def pages() -> dict[Path, str]:
    """Every generated file by path."""
    written = {HOME / f"{name}.md": page(m) for name, m in fallline.METHODS.items()}
    return written | {HOME / "README.md": index(), RELIABILITY: reliability(), LINKS: links(), STUB: stub()}


if __name__ == "__main__":
    HOME.mkdir(parents=True, exist_ok=True)
    for stale in set(HOME.glob("*.md")) - set(pages()):
        stale.unlink()
    for path, text in pages().items():
        path.write_text(text)
