"""Runs side by side: the best first, what they differ in, and one page that opens offline."""

import json
import re
from pathlib import Path

import pytest

from distrain_k8s.watch.compare import compare, differing, is_higher_better, read_folder
from distrain_k8s.watch.compare_page import page, points_of
from distrain_trainer.errors import SettingsError
from helm_cluster import HelmCluster, distrain, needs_helm


def run(folder: Path, rate: float, losses: list[float], accuracy: float | None = None) -> Path:
    """A run's folder, as the trainer leaves it."""
    folder.mkdir(parents=True)
    settings = {"optimizer": {"learning_rate": rate}, "seed": 1, "output_dir": str(folder)}
    (folder / "settings.json").write_text(json.dumps({"settings": settings}))
    lines = [{"step": step, "loss": loss} for step, loss in enumerate(losses, 1)]
    if accuracy is not None:
        lines.append({"step": len(losses), "eval_accuracy": accuracy})
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines) + '{"step": 9, "lo')
    (folder / "training_info.json").write_text(json.dumps({"status": "finished"}))
    return folder


def test_the_best_run_is_first(tmp_path: Path) -> None:
    runs = [
        read_folder(run(tmp_path / "a", 1e-5, [2.0, 1.5], 0.7)),
        read_folder(run(tmp_path / "b", 3e-5, [2.0, 1.0], 0.9)),
        read_folder(run(tmp_path / "c", 1e-3, [2.0, 9.0])),
    ]
    found = compare(runs)
    assert (found.metric, found.differs) == ("loss", ("optimizer.learning_rate",)), "c has no evaluation yet"
    assert [(one.name, one.score, one.at) for one in found.runs] == [("b", 1.0, 2), ("a", 1.5, 2), ("c", 2.0, 1)]
    by_accuracy = compare(runs, "eval_accuracy")
    assert [(one.name, one.score) for one in by_accuracy.runs] == [("b", 0.9), ("a", 0.7), ("c", None)]
    with pytest.raises(SettingsError, match="eval_bleu is not among what the runs have logged: eval_accuracy, loss"):
        compare(runs, "eval_bleu")


def test_the_page_is_whole_and_asks_nothing_of_the_network(tmp_path: Path) -> None:
    runs = [
        read_folder(run(tmp_path / name, rate, [2.0, 1.0 + rate], 0.5)) for name, rate in (("a<b", 0.1), ("c", 0.2))
    ]
    text = page(compare(runs), "lr & seed")
    assert not re.search(r"(src|href)=|https?://|@import", text)
    assert "a&lt;b" in text and "a<b" not in text and "lr &amp; seed" in text
    assert text.count("class='line'") == 4  # loss and accuracy of both
    assert text.index("a&lt;b") < text.index("<td><i style='background:hsl(30 65% 48%)'></i>c</td>")


def test_curves_are_smoothed_without_losing_their_start(tmp_path: Path) -> None:
    one = read_folder(run(tmp_path / "a", 1e-5, [4.0, 2.0, 2.0]))
    steps, values = zip(*points_of(one, "loss", 0.9), strict=True)
    assert steps == (1, 2, 3) and values[0] == 4.0 and 2.0 < values[2] < values[1] < 4.0


def test_which_way_is_better() -> None:
    assert is_higher_better("eval_accuracy") and is_higher_better("eval_f1_macro")
    assert not is_higher_better("eval_loss") and not is_higher_better("eval_perplexity")
    assert differing([{"a": 1, "run_id": "x"}, {"a": 1, "run_id": "y", "b": 2}]) == ["b"]


def test_folders_are_compared_without_a_cluster(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    folders = [str(run(tmp_path / name, rate, [rate], rate)) for name, rate in (("a", 0.1), ("b", 0.2))]
    code, out, err = distrain(capsys, "compare", *folders, "--page", str(tmp_path / "page.html"))
    assert code == 0, err
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["b", "a"] and (tmp_path / "page.html").exists()


@needs_helm
def test_a_group_is_compared_from_the_cluster(
    there: HelmCluster, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    there.out = tmp_path / "claim"
    image = ("--set", "image.repository=registry.local/distrain")
    code, _, err = distrain(
        capsys, "submit", "--name", "lr", "-y", *image, "--sweep", "optimizer.learning_rate=1e-5,3e-5,1e-3"
    )
    assert code == 0, err
    run(there.out / "lr-1", 1e-5, [2.0, 1.5])
    run(there.out / "lr-2", 3e-5, [2.0, 1.2])
    code, out, err = distrain(capsys, "compare", "lr", "-o", "json")
    assert code == 0, err
    assert [one["name"] for one in json.loads(out)] == ["lr-2", "lr-1"]
    assert "lr-3 is left out" in err and "has not written anything yet" in err
    assert (tmp_path / "lr-compared.html").read_text().count("class='line'") == 2
    assert there.names("pods") == set()
    code, out, _ = distrain(capsys, "list", "--group", "lr", "-o", "json")
    assert {one["name"] for one in json.loads(out)} == {"lr-1", "lr-2", "lr-3"}
    assert json.loads(distrain(capsys, "list", "--group", "other", "-o", "json")[1]) == []
