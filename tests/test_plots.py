"""plumbing/plots.py and experiments/figures.py: the plots of training show the cap, and what the log says.

    pytest tests/test_plots.py
"""

import json
from itertools import combinations

import pytest

import eval as evaluation
from experiments import figures
from plumbing import plots

ROWS = [{"step": step, "vote_share": 0.5 - 0.1 * step, "accepted_vote_share": 0.2 + 0.01 * step,
         "vote_share_by_level": {"1": 0.1 * step, **({"4": 0.9} if step else {})},
         **({"valid_vote_share": 0.3} if step == 2 else {})} for step in range(4)]


@pytest.fixture
def drawn(monkeypatch):
    """The figures, which otherwise are closed as soon as they are saved; the files stay empty, which is faster."""
    found, close = [], plots.plt.close
    monkeypatch.setattr(plots.plt.Figure, "savefig", lambda _, path, **options: path.touch())
    monkeypatch.setattr(plots.plt, "close", found.append)
    yield found
    for figure in found:
        close(figure)


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    return path


def lines_of(axis) -> dict[str, tuple[list, list]]:
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axis.lines}


@pytest.mark.parametrize("cap, name", [(0.25, "cap q₊ = 25 %"), (0.0, "cap q₊ = 0 %"), (0.125, "cap q₊ = 12.5 %")])
def test_training_under_a_cap(cap, name, drawn, log, tmp_path):
    plots.plot_training(log, cap, tmp_path / "training.png")
    (figure,) = drawn
    together, by_level = map(lines_of, figure.axes)
    assert together.pop(name)[1] == [100 * cap] * 2
    assert together == {"all responses": ([0, 1, 2, 3], pytest.approx([50, 40, 30, 20])),
                        "accepted responses": ([0, 1, 2, 3], pytest.approx([20, 21, 22, 23])),
                        "validation split": ([2], pytest.approx([30]))}
    assert by_level == {"level 1": ([0, 1, 2, 3], pytest.approx([0, 10, 20, 30])),
                        "level 4": ([0, 1, 2, 3], pytest.approx([float("nan"), 90, 90, 90], nan_ok=True))}
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [name, *together]
    assert all(axis.get_ylim() == (-3, 103) for axis in figure.axes)


def test_training_without_a_cap(drawn, log, tmp_path):
    plots.plot_training(log, None, tmp_path / "training.png")
    assert set(lines_of(drawn[0].axes[0])) == {"all responses", "accepted responses", "validation split"}


def test_an_evaluation_draws_the_cap_of_its_training(drawn, log, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "respond", lambda **_: ["ibpo-25"])
    monkeypatch.setattr(evaluation, "report", lambda *_: {})
    evaluation.evaluate(["ibpo-25"], "builtin", 1, 1, tmp_path, training_log=log, cap=0.25)
    assert lines_of(drawn[0].axes[0])["cap q₊ = 25 %"][1] == [25, 25] and (tmp_path / "training.png").exists()
    evaluation.evaluate(["ibpo-25"], "builtin", 1, 1, tmp_path, training_log=tmp_path / "none.jsonl", cap=0.25)
    assert len(drawn) == 1  # a checkpoint of other origin has no log


def test_training_of_several_seeds(drawn, tmp_path):
    """A panel for each cap that has been trained, with its own line."""
    logs = {"ibpo-25": [ROWS, ROWS], "ibpo-50-give-up": [ROWS]}
    result = {"models": {name: {"label": name, "by_seed": {"vote_share": [0.3, None]}} for name in logs}}
    figures.plot_training(logs, result, tmp_path / "training.png")
    (figure,) = drawn
    for name, cap, axis in zip(logs, (25, 50), figure.axes, strict=True):
        lines = lines_of(axis)
        assert lines["q₊"][1] == [cap, cap] and axis.get_title() == name
        assert lines["accepted responses"] == ([0, 1, 2, 3], pytest.approx([20, 21, 22, 23]))


def test_labels_keep_apart_and_the_boundary_is_between_base_and_sv(drawn, tmp_path):
    models = {name: {"trials": (x,) * 3, "tokens": (20 * x,) * 3, "accuracy": (y,) * 3} for name, x, y in (
        ("base", 1, 0.5), ("sv-sft", 5, 0.6), ("a", 2, 0.55), ("b", 2.01, 0.5505))}
    summary = {"models": models, "base": "base", "sv": "sv-sft", "self_consistency": None}
    plots.plot_budget(summary, tmp_path / "plot.png")
    for axis, unit in zip(drawn[0].axes, (1, 20)):
        assert lines_of(axis)["efficiency boundary"] == ([unit, 5 * unit], pytest.approx([50, 60]))
        boxes = [text.get_window_extent() for text in axis.texts]
        assert len(boxes) == 4 and not any(a.overlaps(b) for a, b in combinations(boxes, 2))
