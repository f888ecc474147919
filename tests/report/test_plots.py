"""Drawings of an evaluation and of a training run: for what there is, in the colours of the page."""

from __future__ import annotations

import re

from detox.report import drawing, pages, plots, training_curves
from tests.report.invented import example


def test_plots_are_written_for_what_there_is(results, examples, tmp_path):
    paths = plots.plots(results, examples, tmp_path)
    assert [p.name for p in paths] == [
        "intervals.png",
        "differences.png",
        "distributions.png",
        "checkpoints.png",
    ]
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in paths)
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in paths}
    text = pages.markdown(results, examples)
    shown = re.findall(r"^## (.*)|\((\w+)\.png\)", text, flags=re.MULTILINE)
    beside = {name: shown[:i][-1][0] or shown[:i][-2][0] for i, (_, name) in enumerate(shown) if name}
    assert beside == {
        "checkpoints": "Checkpoints side by side",
        "differences": "Examples",
        "intervals": "Toxicity",
        "distributions": "Toxicity",
    }, "each in the section of the figures that it shows"
    assert plots.plots({}, [], tmp_path) == []


def test_drawings_take_the_colours_of_the_page_and_share_no_id(results, examples):
    pictures = [drawing.svg() for drawing in plots.drawings(results, examples)]
    assert all("var(--after)" in p and not re.search(r"#[0-9a-f]{6}\b", p) for p in pictures)
    identities = [i for p in pictures for i in re.findall(r'\bid="([^"]*)"', p)]
    assert len(identities) == len(set(identities))
    used = {i for p in pictures for i in re.findall(r'(?:url\(#|href="#)([^")]*)', p)}
    assert used <= set(identities)


def test_captions_count_what_the_examples_hold():
    some = [example("a", 0.9, 0.1), example("b", 0.2, 0.6), example("c", 0.3, 0.3), {"id": "unscored"}]
    by_name = {drawing.name: drawing for drawing in plots.drawings({}, some)}
    assert "1 became less toxic, 1 more, 1 did not change" in by_name["differences"].caption
    assert "33.3% before, 33.3% after" in by_name["distributions"].caption


def test_training_curves_are_drawn_from_what_is_logged(tmp_path):
    lines = [
        {"update": i, "objective/score_mean": i / 10, "objective/score_std": 1.0, "objective/ref_kl": None,
         "ppo/val/explained_variance": -900.0 / i}
        for i in range(1, 6)
    ]  # fmt: skip
    path = tmp_path / "demo" / "ppo" / "training.png"
    path.parent.mkdir(parents=True)
    for metrics in ([], lines[:1], [*lines, {"update": 6, "skipped": "not finite"}]):
        training_curves.training_png(metrics, path)
        assert path.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in path.parent.iterdir()] == ["training.png"]


def test_no_title_of_a_training_curve_runs_into_the_next_panel(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(drawing, "to_png", lambda figure: figures.append(figure) or b"")
    keys = ["objective/score_mean", "objective/ref_kl_k1", "ppo/policy/entropy", "ppo/policy/step_kl", "ppo/loss/value"]
    keys += ["ppo/learning_rate", "ppo/val/explained_variance", "tokens/response_mean"]
    metrics = [{"update": i} | dict.fromkeys(keys, -0.00035 * i) for i in range(1, 4)]
    training_curves.training_png(metrics, tmp_path / "training.png")
    figures[0].canvas.draw()
    panels = [axes for axes in figures[0].axes if axes.get_visible()]
    assert len(panels) == len(keys)
    for axes in panels:
        assert axes.title.get_text() == "", "titles stand on the left"
        assert axes._left_title.get_window_extent().x1 < axes.get_window_extent().x1, axes.get_title(loc="left")
