"""Drawings: of an evaluation, as PNG or as SVG in the colours of its page, and of a training run."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from detox.stage.errors import printable
from detox.stage.figures import interval, lookup, number
from detox.stage.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Vermillion and blue of Okabe and Ito, told apart by the colour-blind. In SVG each is a variable of the page.
BEFORE, AFTER, INK, MUTED, RULE = "#c85200", "#0072b2", "#1b1d21", "#676c75", "#d9dce1"
_VARIABLES = {BEFORE: "before", AFTER: "after", INK: "ink", MUTED: "muted", RULE: "rule"}
_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
}


def toxicities(example: Mapping[str, Any], side: str) -> list[float]:
    """Return the toxicity of the sampled summaries of a `side` (before, after), or else of the greedy one."""
    samples = lookup(example, side, "samples") or []
    values = [number(lookup(s, "toxicity")) for s in samples] or [number(lookup(example, side, "greedy", "toxicity"))]
    return [v for v in values if v is not None]


def drop(example: Mapping[str, Any]) -> float | None:
    """Return by how much the mean toxicity of a dialogue's summaries fell, before minus after."""
    before, after = toxicities(example, "before"), toxicities(example, "after")
    return fmean(before) - fmean(after) if before and after else None


@dataclass(frozen=True)
class Drawing:
    """A figure: its file name without ending, its words, its size in inches, and what draws it."""

    name: str
    title: str
    caption: str
    size: tuple[float, float]
    draw: Callable[[Figure], None]
    compares: bool = False
    """It shows several checkpoints, and stands first."""

    def figure(self, title: bool) -> Figure:
        from matplotlib.figure import Figure

        figure = Figure(figsize=self.size, layout="constrained")
        if title:
            figure.suptitle(self.title, x=0.01, ha="left", fontsize=10, fontweight="bold")
        self.draw(figure)
        return figure

    def png(self) -> bytes:
        """Return the figure with its title, on white."""
        from matplotlib import rc_context

        with rc_context(_STYLE):
            return _png(self.figure(title=True))

    def svg(self) -> str:
        """Return the figure as an SVG element without title, its colours `var(--before)` and so on."""
        from matplotlib import rc_context

        buffer = io.StringIO()
        with rc_context(_STYLE):
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


def drawings(results: Mapping[str, Any], examples: Sequence[Mapping[str, Any]]) -> list[Drawing]:
    """Return the figures for which there is data, in the order in which to show them.

    Args:
        results: the contents of results.json.
        examples: the lines of examples.jsonl.
    """
    makers = (_intervals(results), _differences(examples), _distributions(examples), _checkpoints(results))
    return [drawing for drawing in makers if drawing is not None]


def plots(results: Mapping[str, Any], examples: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """Write each of `drawings` as a PNG into `folder` and return the paths."""
    paths = []
    for drawing in drawings(results, examples):
        paths.append(folder / f"{drawing.name}.png")
        write_atomic(paths[-1], drawing.png())
    return paths


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=200, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def _percent(axis: Any) -> None:
    axis.set_major_formatter(lambda value, _: f"{100 * value:g}%")


# ------------------------------------------------------------------------------------- evaluation


def _intervals(results: Mapping[str, Any]) -> Drawing | None:
    """Changes of mean toxicity with their intervals, over the noise floor."""
    sources = [
        ("Classifier", lookup(results, "toxicity")),
        ("Independent judge", lookup(results, "independent_judge")),
    ]
    sources += [
        (printable(name[:1].upper() + name[1:], 28), part) for name, part in (lookup(results, "slices") or {}).items()
    ]
    rows = []
    for name, part in sources:
        reduction, bounds = number(lookup(part, "mean", "reduction")), interval(lookup(part, "mean", "ci95"))
        if reduction is not None:
            rows.append((name, -reduction, bounds and (-bounds[1], -bounds[0])))
    if not rows:
        return None
    floor = interval(lookup(results, "noise_floor", "mean_reduction_ci95"))
    floor = floor and (-floor[1], -floor[0])

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        if floor is not None:
            axes.axvspan(*floor, color=RULE, linewidth=0, label="noise floor")
        axes.axvline(0, color=MUTED, linewidth=0.8)
        for y, (_, change, bounds) in enumerate(rows):
            if bounds is not None:
                axes.plot(bounds, [y, y], color=AFTER, linewidth=2, solid_capstyle="butt")
            axes.plot([change], [y], "o", color=AFTER, markersize=6)
        axes.set_yticks(range(len(rows)), [name for name, *_ in rows], color=INK)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        low, high = axes.get_xlim()
        axes.set_xlim(min(low, -0.05), min(high, 2.0))
        axes.tick_params(axis="y", length=0)
        axes.grid(False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("change of mean toxicity; left of 0 is better")
        _percent(axes.xaxis)

    caption = "Each point is a change, its line the 95% interval, of slices jointly. Left of zero is less toxic."
    if floor is not None:
        caption += " The grey band is the noise floor: the starting model against itself under other seeds."
    return Drawing("intervals", "Change of mean toxicity", caption, (4.6, 1.3 + 0.3 * len(rows)), draw)


def _differences(examples: Sequence[Mapping[str, Any]]) -> Drawing | None:
    """Each dialogue's drop in toxicity, from the largest to the smallest."""
    drops = sorted((d for d in map(drop, examples) if d is not None), reverse=True)
    if not drops:
        return None
    from matplotlib.ticker import MaxNLocator

    better, worse = sum(d > 0 for d in drops), sum(d < 0 for d in drops)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        edges = [x for i in range(len(drops)) for x in (i, i + 1)]
        heights = [d for d in drops for _ in range(2)]
        for color, keep in ((AFTER, max), (BEFORE, min)):
            axes.fill_between(edges, [keep(h, 0.0) for h in heights], color=color, linewidth=0)
        axes.axhline(0, color=MUTED, linewidth=0.8)
        axes.set_xlim(0, len(drops))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        high, low = max(0.001, drops[0]), min(-0.001, drops[-1])  # room for the words above and below
        axes.set_ylim(min(low * 1.2, -0.2 * high), max(high * 1.1, -0.2 * low))
        for x, y, words, place in (
            (0.98, 0.95, f"less toxic: {better}", ("right", "top")),
            (0.02, 0.05, f"more toxic: {worse}", ("left", "bottom")),
        ):
            color = AFTER if "less" in words else BEFORE
            axes.text(x, y, words, transform=axes.transAxes, color=color, ha=place[0], va=place[1])
        axes.grid(False, axis="x")
        axes.set_xlabel("dialogues, from largest improvement to largest regression")
        axes.set_ylabel("drop in toxicity")

    equal = len(drops) - better - worse
    caption = (
        f"One bar for each dialogue: mean toxicity of its summaries before minus after. {better} became less "
        f"toxic, {worse} more, {equal} did not change."
    )
    return Drawing("differences", "Every dialogue, before minus after", caption, (4.6, 3.1), draw)


def _distributions(examples: Sequence[Mapping[str, Any]]) -> Drawing | None:
    """The share of summaries at least so toxic, before and after."""
    sides = {side: sorted(t for e in examples for t in toxicities(e, side)) for side in ("before", "after")}
    if not all(sides.values()):
        return None

    def share(side: str, threshold: float) -> float:
        return sum(t >= threshold for t in sides[side]) / len(sides[side])

    logarithmic = max(share(side, 0.1) for side in sides) < 0.1

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for side, color, dash in (("before", BEFORE, (0, (4, 1.5))), ("after", AFTER, "solid")):
            values = sides[side]
            n = len(values)
            axes.step(
                [0.0, *values, values[-1]],
                [1.0, *((n - i) / n for i in range(n)), 0.0],
                where="pre",
                color=color,
                linestyle=dash,
                label=side,
            )
        if logarithmic:
            axes.set_yscale("log")
            axes.set_ylim(0.5 / max(map(len, sides.values())), 1.3)
            axes.minorticks_off()
        else:
            axes.set_ylim(0, 1.02)
        axes.set_xlim(0, 1)
        _percent(axes.yaxis)
        axes.set_xlabel("toxicity")
        axes.set_ylabel("summaries at least so toxic" + (" (log scale)" if logarithmic else ""))
        axes.legend(loc="upper right", labelcolor="linecolor", handlelength=2.6)

    caption = (
        "How many of the sampled summaries are at least so toxic; lower is better. At 0.5 and above: "
        f"{share('before', 0.5):.1%} before, {share('after', 0.5):.1%} after."
    )
    return Drawing("distributions", "Distribution of toxicity", caption, (4.6, 3.1), draw)


def _checkpoints(results: Mapping[str, Any]) -> Drawing | None:
    """Reward, toxicity and ROUGE-L over the distance from the starting model."""
    points = [c for c in lookup(results, "checkpoints") or [] if number(lookup(c, "sqrt_kl")) is not None]
    points = sorted(points, key=lambda c: c["sqrt_kl"])
    candidates: tuple[tuple[str, tuple[Any, ...]], ...] = (
        ("reward score", (("score_mean", None, AFTER, "solid"),)),
        (
            "toxicity",
            (("toxicity_mean", "classifier", AFTER, "solid"), ("judge_mean", "judge", BEFORE, (0, (4, 1.5)))),
        ),
        ("ROUGE-L", (("rougeL", None, AFTER, "solid"),)),
    )
    panels = tuple(
        (label, shown)
        for label, series in candidates
        if (shown := tuple(s for s in series if any(number(c.get(s[0])) is not None for c in points)))
    )
    if len(points) < 2 or not panels:
        return None

    def draw(figure: Figure) -> None:
        column = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (label, series) in zip(column, panels, strict=True):
            for key, name, color, dash in series:
                y = [v if (v := number(c.get(key))) is not None else math.nan for c in points]
                axes.plot(
                    [c["sqrt_kl"] for c in points],
                    y,
                    "o",
                    linestyle=dash,
                    color=color,
                    markersize=4,
                    label=name,
                )
            axes.set_ylabel(label)
            axes.margins(y=0.15)
            if len(series) > 1:
                axes.legend(loc="best", labelcolor="linecolor", handlelength=2.6)
        column[-1].set_xlabel("square root of KL from the starting model")

    caption = (
        "Over-optimization shows where the reward still rises while the judge's toxicity turns upwards or "
        "ROUGE-L falls."
    )
    size = (4.6, 1.0 + 1.35 * len(panels))
    return Drawing("checkpoints", "Checkpoints by distance", caption, size, draw, compares=True)


# --------------------------------------------------------------------------------------- training


def training_png(metrics: Sequence[Mapping[str, Any]], path: Path, run: str | None = None) -> None:
    """Write the curves of a training run; panels without a number are left out.

    Args:
        metrics: the lines of metrics.jsonl, in order.
        path: the PNG to write, replaced whole.
        run: name for the title; that of the folder two above the file unless given.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    panels: list[tuple[str, str, str | None]] = [
        ("Reward score, mean and std", "objective/score_mean", "objective/score_std"),
        ("KL to the reference, nats a summary", "objective/ref_kl", None),
        ("Entropy, nats a token", "ppo/policy/entropy", None),
        ("KL moved in the update, nats a token", "ppo/policy/step_kl", None),
        ("Learning rate", "ppo/learning_rate", None),
        ("Value loss", "ppo/loss/value", None),
        ("Variance explained by the value head", "ppo/val/explained_variance", None),
        ("Response length, tokens", "tokens/response_mean", None),
    ]
    panels = [p for p in panels if any(number(line.get(p[1])) is not None for line in metrics)]
    updates = [number(line.get("update")) or i for i, line in enumerate(metrics, start=1)]
    name = run or path.absolute().parent.parent.name
    with rc_context(_STYLE):
        rows = max(1, math.ceil(len(panels) / 3))
        figure = Figure(figsize=(9.6, 0.5 + 2.3 * rows), layout="constrained")
        plural = "" if len(metrics) == 1 else "s"
        title = f"Run {printable(name, 60)}: {len(metrics)} update{plural}"
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        if panels:
            grid = list(figure.subplots(rows, min(3, len(panels)), squeeze=False).flat)
            for axes, panel in zip(grid, panels, strict=False):
                _curve(axes, metrics, updates, *panel)
            for axes in grid[len(panels) :]:
                axes.set_visible(False)
        write_atomic(path, _png(figure))


def _curve(
    axes: Axes,
    metrics: Sequence[Mapping[str, Any]],
    updates: Sequence[float],
    title: str,
    key: str,
    spread: str | None,
) -> None:
    from matplotlib.ticker import MaxNLocator

    values = [v if (v := number(line.get(key))) is not None else math.nan for line in metrics]
    if spread is not None:
        widths = [number(line.get(spread)) or 0.0 for line in metrics]
        bands = list(zip(values, widths, strict=True))
        low, high = [v - w for v, w in bands], [v + w for v, w in bands]
        axes.fill_between(updates, low, high, color=AFTER, alpha=0.15, linewidth=0)
    axes.plot(updates, values, color=AFTER, marker="o", markersize=3 if len(values) <= 50 else 0)
    axes.set_title(title, loc="left", fontsize=9)
    axes.set_xlabel("update")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    if key == "ppo/val/explained_variance":
        axes.set_ylim(max(-1.05, axes.get_ylim()[0]), 1.05)  # an untrained value head may stand at -1000
