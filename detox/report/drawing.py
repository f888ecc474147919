"""What a drawing is: its words and what draws it; as a PNG, or as SVG in the colours of a page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

# Vermillion and blue of Okabe and Ito, told apart by the colour-blind. In SVG each is a variable of the page.
BEFORE, AFTER, INK, MUTED, RULE = "#c85200", "#0072b2", "#1b1d21", "#676c75", "#d9dce1"
_VARIABLES = {BEFORE: "before", AFTER: "after", INK: "ink", MUTED: "muted", RULE: "rule"}
_COLORS = {
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "grid.color": RULE,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}
_STYLE = Path(__file__).with_name("templates") / "drawing.mplstyle"


def styled() -> AbstractContextManager[None]:
    """Draw in the style of the report, whatever the user's own settings of matplotlib."""
    return rc_context(_COLORS, fname=_STYLE)


@dataclass(frozen=True)
class Drawing:
    """A figure: its file name without ending, its words, its size in inches, and what draws it."""

    name: str
    title: str
    caption: str
    size: tuple[float, float]
    draw: Callable[[Figure], None]
    section: str
    """Title of the section of the report in which it stands, beside the figures that it shows."""

    def figure(self, title: bool) -> Figure:
        figure = Figure(figsize=self.size, layout="constrained")
        if title:
            figure.suptitle(self.title, x=0.01, ha="left", fontsize=10, fontweight="bold")
        self.draw(figure)
        return figure

    def png(self) -> bytes:
        """Return the figure with its title, on white."""
        with styled():
            return to_png(self.figure(title=True))

    def svg(self) -> str:
        """Return the figure as an SVG element without title, its colours `var(--before)` and so on."""
        buffer = io.StringIO()
        with styled():
            nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            self.figure(title=False).savefig(buffer, format="svg", transparent=True, metadata=nothing)
        text = buffer.getvalue()
        text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text[text.index("<svg") :], flags=re.DOTALL)
        text = re.sub(r' (?:version|xmlns(?::xlink)?)="[^"]*"', "", text)
        text = re.sub(r"<svg [^>]*?(viewBox=\"[^\"]*\")[^>]*>", r"<svg \1>", text, count=1)
        text = text.replace("xlink:href", "href")
        text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{self.name}-", text)
        text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
        text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
        for color, variable in _VARIABLES.items():
            text = text.replace(color, f"var(--{variable})")
        label = f'role="img" aria-label="{self.title}"'
        return text.replace("<svg ", f"<svg {label} ", 1).strip()


def to_png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=200, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()
