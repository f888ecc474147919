"""The curves of a training run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from detox.report import drawing
from detox.report.drawing import AFTER
from detox.stage.errors import printable
from detox.stage.figures import number
from detox.stage.files import write_atomic

Panel = tuple[str, str, str, str | None]
"""Title, unit, name of the metric, name of its spread."""


def training_png(metrics: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the curves of a training run; panels without a number are left out.

    Args:
        metrics: the lines of metrics.jsonl, in order.
        path: the PNG to write, replaced whole; the folder two above it names the run.
    """
    panels: list[Panel] = [
        ("Reward score, mean and std", "", "objective/score_mean", "objective/score_std"),
        ("KL from the starting model", "nats a summary", "objective/ref_kl_k1", None),
        ("Entropy", "nats a token", "ppo/policy/entropy", None),
        ("KL moved in the update", "nats a token", "ppo/policy/step_kl", None),
        ("Learning rate", "", "ppo/learning_rate", None),
        ("Value loss", "", "ppo/loss/value", None),
        ("Explained by the value head", "share of variance", "ppo/val/explained_variance", None),
        ("Response length", "tokens", "tokens/response_mean", None),
    ]
    panels = [p for p in panels if any(number(line.get(p[2])) is not None for line in metrics)]
    updates = [number(line.get("update")) or i for i, line in enumerate(metrics, start=1)]
    with drawing.styled():
        rows = max(1, math.ceil(len(panels) / 3))
        figure = Figure(figsize=(9.6, 0.5 + 2.3 * rows), layout="constrained")
        plural = "" if len(metrics) == 1 else "s"
        title = f"Run {printable(path.absolute().parent.parent.name, 60)}: {len(metrics)} update{plural}"
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        if panels:
            grid = list(figure.subplots(rows, min(3, len(panels)), squeeze=False).flat)
            for axes, panel in zip(grid, panels, strict=False):
                _curve(axes, metrics, updates, panel)
            for axes in grid[len(panels) :]:
                axes.set_visible(False)
        write_atomic(path, drawing.to_png(figure))


def _curve(axes: Axes, metrics: Sequence[Mapping[str, Any]], updates: Sequence[float], panel: Panel) -> None:
    title, unit, key, spread = panel
    values = [v if (v := number(line.get(key))) is not None else math.nan for line in metrics]
    if spread is not None:
        widths = [number(line.get(spread)) or 0.0 for line in metrics]
        bands = list(zip(values, widths, strict=True))
        low, high = [v - w for v, w in bands], [v + w for v, w in bands]
        axes.fill_between(updates, low, high, color=AFTER, alpha=0.15, linewidth=0)
    axes.plot(updates, values, color=AFTER, marker="o", markersize=3 if len(values) <= 50 else 0)
    axes.set_title(title, loc="left", fontsize=9)
    axes.set_xlabel("update")
    axes.set_ylabel(unit)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    if key == "ppo/val/explained_variance":
        axes.set_ylim(max(-1.05, axes.get_ylim()[0]), 1.05)  # an untrained value head may stand at -1000
