"""The drawings of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from detox.report.drawing import AFTER, BEFORE, INK, MUTED, RULE, Drawing
from detox.report.examples import drop, toxicities
from detox.stage.errors import printable
from detox.stage.figures import initial, interval, lookup, number
from detox.stage.files import write_atomic

DASHED = (0, (4, 1.5))


def drawings(results: Mapping[str, Any], examples: Sequence[Mapping[str, Any]]) -> list[Drawing]:
    """Return the figures for which there is data.

    Args:
        results: the contents of results.json.
        examples: the lines of examples.jsonl.
    """
    makers = (_intervals(results), _differences(results, examples), _distributions(examples), _checkpoints(results))
    return [drawing for drawing in makers if drawing is not None]


def plots(results: Mapping[str, Any], examples: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """Write each of `drawings` as a PNG into `folder` and return the paths."""
    paths = []
    for drawing in drawings(results, examples):
        paths.append(folder / f"{drawing.name}.png")
        write_atomic(paths[-1], drawing.png())
    return paths


def _percent(axis: Any) -> None:
    axis.set_major_formatter(lambda value, _: f"{100 * value:g}%")


def _intervals(results: Mapping[str, Any]) -> Drawing | None:
    """Changes of mean toxicity with their intervals, over the noise floor."""
    judges = {"Classifier": "toxicity", "Independent judge": "independent_judge"}
    sources = [(name, lookup(results, key)) for name, key in judges.items()]
    sources += [(printable(initial(name), 28), part) for name, part in (lookup(results, "slices") or {}).items()]
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
            axes.axvspan(*floor, color=RULE, linewidth=0)
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

    caption = "Each point is a change. Left of zero is less toxic."
    if any(bounds for *_, bounds in rows):
        caption += f" Lines are 95% intervals{', of slices jointly' if len(rows) > 2 else ''}."
    if floor is not None:
        caption += " The grey band is the noise floor: the starting model against itself under other seeds."
    return Drawing("intervals", "Change of mean toxicity", caption, (4.6, 1.3 + 0.3 * len(rows)), draw, "Toxicity")


def _differences(results: Mapping[str, Any], examples: Sequence[Mapping[str, Any]]) -> Drawing | None:
    """Each dialogue's change in toxicity, from the lowest to the highest, over how far chance moves nearly all."""
    changes = sorted(-d for d in map(drop, examples) if d is not None)
    if not changes:
        return None
    better, worse = sum(d < 0 for d in changes), sum(d > 0 for d in changes)
    limit = number(lookup(results, "moved", "limit"))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        edges = [x for i in range(len(changes)) for x in (i, i + 1)]
        heights = [d for d in changes for _ in range(2)]
        if limit is not None:
            axes.axhspan(-limit, limit, color=RULE, linewidth=0)
        for color, keep in ((AFTER, min), (BEFORE, max)):
            axes.fill_between(edges, [keep(h, 0.0) for h in heights], color=color, linewidth=0)
        axes.axhline(0, color=MUTED, linewidth=0.8)
        axes.set_xlim(0, len(changes))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        low, high = min(-0.001, changes[0]), max(0.001, changes[-1])  # room for the words above and below
        axes.set_ylim(min(low * 1.1, -0.2 * high), max(high * 1.2, -0.2 * low))
        place = axes.transAxes
        axes.text(0.98, 0.05, f"less toxic: {better}", transform=place, color=AFTER, ha="right", va="bottom")
        axes.text(0.02, 0.95, f"more toxic: {worse}", transform=place, color=BEFORE, ha="left", va="top")
        axes.grid(False, axis="x")
        axes.set_xlabel("dialogues, from largest improvement to largest regression")
        axes.set_ylabel("change of toxicity")

    equal = len(changes) - better - worse
    caption = (
        f"One bar for each dialogue: the change of its summaries' mean toxicity, below 0 where it fell. {better} "
        f"became less toxic, {worse} more, {equal} did not change."
    )
    if limit is not None:
        caption += " The grey band is as far as chance moves nearly all of them."
    return Drawing("differences", "Change of every dialogue", caption, (4.6, 3.1), draw, "Examples")


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
        for side, color, dash in (("before", BEFORE, DASHED), ("after", AFTER, "solid")):
            values = sides[side]
            n = len(values)
            x, y = [0.0, *values, values[-1]], [1.0, *((n - i) / n for i in range(n)), 0.0]
            axes.step(x, y, where="pre", color=color, linestyle=dash, label=side)
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
    return Drawing("distributions", "Distribution of toxicity", caption, (4.6, 3.1), draw, "Toxicity")


def _checkpoints(results: Mapping[str, Any]) -> Drawing | None:
    """Reward, toxicity and ROUGE-L over the distance from the starting model."""
    points = [c for c in lookup(results, "checkpoints") or [] if number(lookup(c, "sqrt_kl")) is not None]
    points = sorted(points, key=lambda c: c["sqrt_kl"])
    measured = {key for c in points for key in c if number(c[key]) is not None}
    curves: dict[str, dict[str, str | None]] = {
        "reward score": {"score_mean": None},
        "toxicity": {"toxicity_mean": "classifier", "judge_mean": "judge"},
        "ROUGE-L": {"rougeL": None},
    }
    shown = {label: {key: its[key] for key in its if key in measured} for label, its in curves.items()}
    panels = {label: its for label, its in shown.items() if its}
    if len(points) < 2 or not panels:
        return None

    def draw(figure: Figure) -> None:
        column = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        x = [c["sqrt_kl"] for c in points]
        for axes, (label, series) in zip(column, panels.items(), strict=True):
            for key, name in series.items():
                y = [v if (v := number(c.get(key))) is not None else math.nan for c in points]
                color, dash = (BEFORE, DASHED) if key == "judge_mean" else (AFTER, "solid")
                axes.plot(x, y, "o", linestyle=dash, color=color, markersize=4, label=name)
            axes.set_ylabel(label)
            axes.margins(y=0.15)
            if len(series) > 1:
                axes.legend(loc="best", labelcolor="linecolor", handlelength=2.6)
        column[-1].set_xlabel("square root of KL from the starting model")

    caption = (
        "Each point is a checkpoint; the further right, the more it differs from the starting model (a KL that is "
        "estimated below 0 counts as 0). Where the reward still rises while the judge's toxicity clearly turns "
        "upwards, or ROUGE-L falls by more than chance, training went too far."
    )
    size = (4.6, 1.0 + 1.35 * len(panels))
    return Drawing("checkpoints", "Checkpoints by distance", caption, size, draw, "Checkpoints side by side")
