"""From a matplotlib figure to a small inline SVG that takes its colours and font from the page.

Only the object-oriented interface of matplotlib is used, and only inside functions, so importing this costs nothing and
leaves a user's pyplot state alone.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fallline.report.palette import ROLES, VARIABLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Picture", "drawing", "figure", "inline", "light_and_dark", "stamp", "standalone"]

STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],  # shipped with matplotlib: the layout is the same on every machine
    "font.size": 10.5,
    "text.parse_math": False,  # a name with dollar signs is a name
    "text.color": ROLES["ink"],
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 10.5,
    "axes.labelcolor": ROLES["soft"],
    "axes.edgecolor": ROLES["soft"],
    "axes.facecolor": "none",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "axes.formatter.useoffset": False,
    "axes.formatter.use_mathtext": False,
    "figure.facecolor": "none",
    "figure.dpi": 72,  # one unit of the drawing is one pixel of the page
    "savefig.facecolor": "none",
    "xtick.color": ROLES["soft"],
    "ytick.color": ROLES["soft"],
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.minor.width": 0.5,
    "ytick.minor.width": 0.5,
    "xtick.major.size": 3.5,
    "ytick.major.size": 3.5,
    "xtick.minor.size": 2,
    "ytick.minor.size": 2,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    "svg.hashsalt": "fallline",
    "pdf.fonttype": 42,  # fonts go into the file as TrueType
    "path.simplify_threshold": 0.2,
}


SVG_OPENING = '<svg xmlns="http://www.w3.org/2000/svg"'


@contextmanager
def drawing() -> Iterator[None]:
    """The style of the report's figures, whatever the user's matplotlibrc says; restored afterwards."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def figure(width: float, height: float, **margins: float) -> tuple[Figure, Axes]:
    """A figure of that many pixels with one pair of axes; margins in pixels: left, right, top, bottom."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(width / 72, height / 72))
    left, right, top, bottom = (margins.get(side, 12) for side in ("left", "right", "top", "bottom"))
    box = (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
    return fig, fig.add_axes(box)


@dataclass(frozen=True)
class Picture:
    """A drawn figure and what it shows in words."""

    figure: Figure
    label: str

    def inline(self, prefix: str) -> str:
        """As an element of a page; ids start with ``prefix``."""
        with drawing():
            return inline(self.figure, prefix, self.label)

    def standalone(self) -> str:
        """As an SVG file in the page's colours, light and dark."""
        with drawing():
            return standalone(self.figure, self.label)

    def save(self, path: Path) -> None:
        """As a file, SVG or PDF by its ending, in the light colours; draw the figure anew to use it in a page after that."""
        _paint(self.figure, {colour: light_and_dark()[0][name[4:-1]] for colour, name in VARIABLES.items()})
        with drawing():
            self.figure.savefig(path, metadata={"CreationDate": None} if path.suffix == ".pdf" else {"Date": None})


def _paint(fig: Figure, colours: dict[str, str]) -> None:
    """Put real colours in the place of those that stand for variables, in everything that the figure is made of."""
    from matplotlib.colors import to_hex, to_rgba

    fig.draw_without_rendering()  # ticks are made when they are first drawn

    def real(held: Any) -> Any:
        if isinstance(held, str) and held.lower() in ("none", "auto", "inherit", "face"):
            return held
        name = colours.get(to_hex(held))
        return held if name is None else to_rgba(name, to_rgba(held)[3])

    for artist in fig.findobj():
        for part in ("color", "facecolor", "edgecolor", "markerfacecolor", "markeredgecolor"):
            get, put = getattr(artist, f"get_{part}", None), getattr(artist, f"set_{part}", None)
            if get is None or put is None:
                continue
            held = get()
            many = hasattr(held, "ndim") and held.ndim == 2  # of a collection
            if not many or len(held):
                put([real(tuple(one)) for one in held] if many else real(held))


def stamp(fig: Figure, text: str) -> None:
    """A watermark across the figure, where what it shows is not final; nothing for an empty text."""
    if text:
        size = min(34.0, 110 * fig.get_figwidth() / len(text))  # three quarters of the width
        fig.text(0.5, 0.52, text.upper(), rotation=18, ha="center", va="center", fontsize=size, alpha=0.16,
                 color=ROLES["bad"], zorder=9)  # fmt: skip


def inline(fig: Figure, prefix: str, label: str) -> str:
    """The figure as one ``<svg>`` element: named for screen readers, its ids starting with ``prefix``."""
    buffer = io.StringIO()
    fig.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = _rename_ids(text, prefix)
    text = re.sub(r" font-family: [^;\"]*;| transform=\"rotate\(-?0 [^\"]*\"|<defs></defs>", "", text)
    text = re.sub(r'\b(d|x|y|transform|width|height)="([^"]*)"', _round_coordinates, text)
    text = re.sub(r"#0[ab]00[0-9a-f]{2}", lambda m: VARIABLES.get(m[0], m[0]), text)
    text = _thin(re.sub(r">\s+<", "><", text).replace("\n", " "))
    width, height = (round(72 * side) for side in fig.get_size_inches())
    opening = (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(label, quote=True)}" focusable="false">'
    )
    return opening + text[text.index(">") + 1 :].strip()


def standalone(fig: Figure, label: str) -> str:
    """The figure as a file of its own, with the page's colours in light and dark."""
    light, dark = (" ".join(f"{name}: {value};" for name, value in part.items()) for part in light_and_dark())
    style = (
        f"<style>svg {{ {light} background: var(--paper); font-family: 'DejaVu Sans', sans-serif; }} "
        f"@media (prefers-color-scheme: dark) {{ svg {{ {dark} }} }}</style>"
    )
    text = inline(fig, "figure", label)
    opening, _, rest = text.partition(">")
    return f"{opening.replace('<svg', SVG_OPENING, 1)}>{style}{rest}\n"


def light_and_dark() -> tuple[dict[str, str], dict[str, str]]:
    """The colours of figures by the name of their variable, from the page's style."""
    from importlib.resources import files

    css = (files("fallline.report") / "templates" / "style.css").read_text(encoding="utf-8")
    used = {variable[4:-1] for variable in VARIABLES.values()}
    light, _, dark = css.partition("prefers-color-scheme: dark")
    return _declared(light, used), _declared(dark, used)


def _declared(css: str, names: set[str]) -> dict[str, str]:
    """The first declaration of each of these variables."""
    found: dict[str, str] = {}
    for name, value in re.findall(r"(--[\w-]+):\s*([^;}]+)[;}]", css):
        if name in names:
            found.setdefault(name, value.strip())
    return found


def _thin(text: str) -> str:
    """Without what draws nothing: groups that say nothing, paths without a pen, styles of ticks that their shape has already."""
    text = re.sub(r'<path [^>]*style="fill: none"/>', "", text)
    kept: list[str] = []
    open_groups: list[bool] = []
    for part in re.split(r"(<g\b[^>]*>|</g>)", text):
        if part == "</g>":
            kept.append(part if open_groups.pop() else "")
        elif part.startswith("<g") and not part.endswith("/>"):
            open_groups.append(part != "<g>")
            kept.append(part if open_groups[-1] else "")
        else:
            kept.append(part)
    text = "".join(kept)
    lines = dict(re.findall(r'<path id="([^"]+)" d="M \S+ \S+ L \S+ \S+" style="([^"]*)"/>', text))

    def tick(match: re.Match[str]) -> str:
        same = lines.get(match[1]) == re.sub(r"^fill: [^;]*; ", "", match[3])
        return f'<use href="#{match[1]}"{match[2]}/>' if same else match[0]

    return re.sub(r'<use href="#([^"]+)"([^>]*?) style="([^"]*)"/>', tick, text)


def _rename_ids(text: str, prefix: str) -> str:
    """Drop ids that nothing refers to; number the others after the prefix, so that figures share a page."""
    used = dict.fromkeys(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    names = {old: f"{prefix}-{i}" for i, old in enumerate(used)}
    text = re.sub(r' id="([^"]*)"', lambda m: f' id="{names[m[1]]}"' if m[1] in names else "", text)
    text = re.sub(r'(?:xlink:)?href="#([^"]+)"', lambda m: f'href="#{names[m[1]]}"', text)
    return re.sub(r"url\(#([^)]+)\)", lambda m: f"url(#{names[m[1]]})", text)


def _round_coordinates(match: re.Match[str]) -> str:
    body = re.sub(r"-?\d+\.\d+", lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), match[2])
    return f'{match[1]}="{" ".join(body.split())}"'
