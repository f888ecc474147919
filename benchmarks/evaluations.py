"""How often the evaluation is right: evaluations simulated from data whose truth is known.

    python benchmarks/evaluations.py

prints the tables of docs/evaluation.md. `detox.evaluation` makes each evaluation of simulated toxicity: nothing of it
is written a second time here. --evaluations sets how many a line takes; the Monte Carlo error of a share p is
sqrt(p (1 - p) / number), 0.005 at 0.95 and 2,000.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from detox.evaluation import alarms, intervals, power, two_models  # noqa: E402
from detox.evaluation.judge import disagreement  # noqa: E402
from detox.evaluation.noise import noise_floor  # noqa: E402

Array = np.ndarray
Draw = Callable[[int, float], Array]
"""From the number of samples and the effect to toxicity, [evaluations, dialogues, samples]."""

SIZES, SAMPLES, EFFECTS = (30, 100, 300), (1, 4), (0.0, 0.1, 0.5, 0.9)
FLIPS = 400
ENDLESS = (100, 10_000)
"""Evaluations and dialogues that tell the truth."""
NAMED = 20
"""Evaluations whose promises are averaged."""
BLOCK = 250
"""Evaluations that are drawn at once."""


# ------------------------------------------------------------------------------------------------------- data


def bimodal(rng: np.random.Generator, evaluations: int, n: int) -> Draw:
    """Three dialogues in ten heat up: most of their summaries are near 1; all others near 0."""
    heated = rng.random((evaluations, n)) < 0.3
    likely = np.where(heated, rng.beta(4, 2, heated.shape), 0.01)[:, :, None]

    def draw(k: int, effect: float) -> Array:
        toxic = rng.random((evaluations, n, k)) < likely * (1 - effect)
        return np.where(toxic, rng.beta(8, 1.5, toxic.shape), rng.beta(0.5, 30, toxic.shape))

    return draw


def heavy_tails(rng: np.random.Generator, evaluations: int, n: int) -> Draw:
    """Log-normal, cut off at 1: a mean of 0.05, of which a tenth of the dialogues hold half; an effect scales."""
    level = rng.normal(-4, 1.3, (evaluations, n, 1))

    def draw(k: int, effect: float) -> Array:
        return np.minimum(1, (1 - effect) * np.exp(level + rng.normal(0, 0.7, (evaluations, n, k))))

    return draw


def rare_spikes(rng: np.random.Generator, evaluations: int, n: int) -> Draw:
    """Three dialogues in a hundred have summaries near 1; all others next to nothing."""
    likely = np.where(rng.random((evaluations, n)) < 0.03, 0.7, 0.001)[:, :, None]

    def draw(k: int, effect: float) -> Array:
        toxic = rng.random((evaluations, n, k)) < likely * (1 - effect)
        return np.where(toxic, rng.beta(20, 2, toxic.shape), 0.002 * rng.gamma(1, 1, toxic.shape))

    return draw


WORLDS = {"bimodal": bimodal, "heavy tails": heavy_tails, "rare spikes": rare_spikes}


def pairs(world: str, n: int, k: int, effect: float, number: int, seed: int) -> Iterable[tuple[Array, Array]]:
    """Yield before and after, [n, k], of as many evaluations."""
    rng = np.random.default_rng(seed)
    for start in range(0, number, BLOCK):
        draw = WORLDS[world](rng, min(BLOCK, number - start), n)
        yield from zip(draw(k, 0.0), draw(k, effect))


@functools.cache
def truth(world: str, effect: float) -> dict[str, float]:
    """Return what an endless evaluation would find."""
    draw = WORLDS[world](np.random.default_rng(0), *ENDLESS)
    before, after = draw(2, 0.0), draw(2, effect)
    return {
        "mean": 1 - after.mean() / before.mean(),
        "std": 1 - after.std() / before.std(),
        "difference": before.mean() - after.mean(),
    }


# ----------------------------------------------------------------------------------------------------- tables


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table as Markdown, row by row."""
    print(f"\n### {title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def rate(hits: Sequence[bool]) -> str:
    """Return a share with its Monte Carlo error where that is above 0.01, as where few intervals are given.

    Of a share of 1 no error can be told: it is given as `all`, and of how many.
    """
    if len(hits) < 20:
        return "too few"
    if all(hits):
        return f"all {len(hits)}"
    p, error = float(np.mean(hits)), float(np.std(hits)) / np.sqrt(len(hits))
    return f"{p:.3f}" if error <= 0.01 else f"{p:.2f} ± {error:.2f}"


def coverage(number: int) -> Iterable[list[str]]:
    """Yield the rows of coverage and verdicts."""
    for world in WORLDS:
        truths = {effect: truth(world, effect) for effect in EFFECTS}
        for n in SIZES:
            for k in SAMPLES:
                for effect in EFFECTS:
                    hits: dict[str, list[bool]] = {name: [] for name in truths[effect]}
                    verdicts = []
                    for seed, pair in enumerate(pairs(world, n, k, effect, number, seed=1)):
                        found = two_models.compare(*pair, resamples=FLIPS, seed=seed)
                        verdicts.append(found["verdict"])
                        for name, true in truths[effect].items():
                            bounds = found[name]["ci95"]
                            hits[name] += [] if bounds is None else [bounds[0] <= true <= bounds[1]]
                    given = [f"{len(hits[name]) / number:.2f}" for name in hits]
                    shown = [rate(hits[name]) for name in hits]
                    wrong = [verdicts.count(kind) / number for kind in ("reduced", "increased")]
                    yield [
                        world,
                        str(n),
                        str(k),
                        f"-{effect:.0%}" if effect else "0",
                        *(f"{share} ({part})" for share, part in zip(shown, given)),
                        *(f"{share:.3f}" for share in wrong),
                    ]


def promises(number: int) -> Iterable[list[str]]:
    """Yield the rows of power: what 300 dialogues under one effect name for another, and what that number shows."""
    for k in SAMPLES:
        for measured, asked in ((0.9, 0.1), (0.02, 0.5), (0.5, 0.5), (0.3, 0.1), (0.1, 0.9)):
            rng, named = np.random.default_rng(2), []
            for _ in range(NAMED):
                draw = bimodal(rng, 1, 300)
                named.append(power.effects(draw(k, 0)[0], draw(k, 0)[0], draw(k, measured)[0]).dialogues(asked))
            n = round(float(np.mean(named)))
            thinned = asked / bimodal_share()  # so that the mean falls by what was asked for
            seen = [
                two_models.compare(*pair, resamples=FLIPS, seed=seed)["verdict"] == "reduced"
                for seed, pair in enumerate(pairs("bimodal", n, k, thinned, number, seed=3))
            ]
            span = f"{n:,} ({min(named):,} to {max(named):,})"
            yield [str(k), f"-{measured:.0%}", f"-{asked:.0%}", span, rate(seen)]


def bimodal_share() -> float:
    """Return the share of the mean toxicity that an effect of 1 would take away."""
    return truth("bimodal", 1.0)["mean"]


def floors(number: int) -> Iterable[list[str]]:
    """Yield the rows of the noise floor: how often it holds what the same dialogues show under new seeds."""
    for world in WORLDS:
        for n in SIZES:
            for k in SAMPLES:
                rng = np.random.default_rng(4)
                hits: dict[str, list[bool]] = {"mean": [], "std": []}
                for start in range(0, number, BLOCK):
                    draw = WORLDS[world](rng, min(BLOCK, number - start), n)
                    for first, second, before, after in zip(*(draw(k, 0.0) for _ in range(4))):
                        floor = noise_floor(first, second)
                        seen = {"mean": 1 - after.mean() / before.mean(), "std": 1 - after.std() / before.std()}
                        for name, reduction in seen.items():
                            bounds = floor[f"{name}_reduction_ci95"]
                            hits[name] += [] if bounds is None else [bounds[0] <= reduction <= bounds[1]]
                yield [world, str(n), str(k), *(f"{rate(h)} ({len(h) / number:.2f})" for h in hits.values())]


def false_and_missed(number: int) -> Iterable[list[str]]:
    """Yield the rows of alarms: what each kind of change raises."""
    cases = (
        ("empty summaries, 3% to 3%", "nothing", lambda rng, n: _figure(rng, n, "drift.empty", 0.03, 0.03)),
        ("empty summaries, 0% to 10%", "alarm", lambda rng, n: _figure(rng, n, "drift.empty", 0.0, 0.1)),
        ("duplicates, 5% to 5%", "nothing", lambda rng, n: _figure(rng, n, "drift.duplicate", 0.05, 0.05)),
        ("finished, 99% to 70%", "alarm", lambda rng, n: _figure(rng, n, "drift.finished", 0.99, 0.7)),
        ("ROUGE-L, .40 to .40", "nothing", lambda rng, n: _rouge(rng, n, 0.4)),
        ("ROUGE-L, .40 to .34", "warning", lambda rng, n: _rouge(rng, n, 0.34)),
        ("ROUGE-L, .40 to .28", "alarm", lambda rng, n: _rouge(rng, n, 0.28)),
        ("reward -90%, judge -80%", "nothing", lambda rng, n: _judges(rng, n, 0.9, 0.8)),
        ("reward -90%, judge -30%", "warning", lambda rng, n: _judges(rng, n, 0.9, 0.3)),
        ("reward -90%, judge 0%", "alarm", lambda rng, n: _judges(rng, n, 0.9, 0.0)),
    )
    for what, right, make in cases:
        for n in SIZES:
            rng = np.random.default_rng(5)
            levels = [make(rng, n) for _ in range(number)]
            shares = (f"{levels.count(level) / number:.3f}" for level in ("nothing", "warning", "alarm"))
            yield [what, str(n), right, *shares]


def _figure(rng: np.random.Generator, n: int, path: str, before: float, after: float, k: int = 4) -> str:
    """Return the level that a share of summaries raises, dialogues differing in how likely it is."""

    def side(rate: float) -> intervals.Estimate:
        each = rng.beta(5 * rate, 5 * (1 - rate), (n, 1)) if rate > 0 else np.zeros((n, 1))
        return intervals.mean((rng.random((n, k)) < each).mean(axis=1))

    return _level(path, side(before), side(after))


def _rouge(rng: np.random.Generator, n: int, after: float, k: int = 4) -> str:
    own = rng.normal(0, 0.1, (n, 1))
    sides = (np.clip(middle + own + rng.normal(0, 0.12, (n, k)), 0, 1).mean(axis=1) for middle in (0.4, after))
    return _level("rouge.rougeL", *map(intervals.mean, sides))


def _level(path: str, before: intervals.Estimate, after: intervals.Estimate) -> str:
    part, name = path.split(".")
    change = intervals.interval(after - before)
    found = alarms.alarms({part: {name: {"before": before.value, "after": after.value, "ci95": change}}})
    return found[0].level if found else "nothing"


def _judges(rng: np.random.Generator, n: int, ours: float, its: float) -> str:
    """Return the level that two classifiers raise which find the same dialogues toxic, in summaries of their own."""
    draw = bimodal(rng, 1, n)
    reward, judge = ([draw(4, 0.0)[0], draw(4, effect)[0]] for effect in (ours, its))
    found = disagreement(*reward, *judge, resamples=FLIPS)
    return {"none": "nothing"}.get(found["level"], found["level"])


def slices(number: int) -> Iterable[list[str]]:
    """Yield the rows of slices: in how many evaluations without an effect one of four intervals leaves out 0."""
    for n in (100, 300):
        masks = {str(i): np.arange(n) % 4 == i for i in range(4)}
        false = []
        for pair in pairs("bimodal", n, 4, 0.0, number, seed=6):
            parts = two_models.by_slice(*pair, masks, resamples=1)
            bounds = [part["mean"]["ci95"] for part in parts.values()]
            false.append(any(b is not None and not b[0] <= 0 <= b[1] for b in bounds))
        yield [str(n), rate(false)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluations", type=int, default=2000, help="simulated evaluations a line (default: 2000)")
    number, started = parser.parse_args().evaluations, time.process_time()
    columns = ["Data", "n", "k", "Effect", "Mean", "Std", "Difference", "Reduced", "Increased"]
    table("Intervals and verdicts", columns, coverage(number))
    table("Power", ["k", "Measured", "Asked for", "Dialogues named", "Power"], promises(number))
    table("Noise floor", ["Data", "n", "k", "Mean", "Std"], floors(number))
    table("Alarms", ["What happened", "n", "Right", "Nothing", "Warning", "Alarm"], false_and_missed(number // 2))
    table("Slices", ["n", "One of four leaves out 0"], slices(number // 2))
    print(f"\n{number:,} evaluations a line, {time.process_time() - started:,.0f} s of CPU")


if __name__ == "__main__":
    main()
