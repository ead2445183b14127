"""Class weights and label smoothing: what torch computes of a step's rows at once, whatever they are dealt to."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from distrain_trainer.errors import SettingsError
from distrain_trainer.settings.model import Settings
from distrain_trainer.settings.reader import read_settings
from distrain_trainer.tasks.losses import cross_entropy
from distrain_trainer.tasks.sequence import balanced, weigh
from distrain_trainer.tasks.weights import class_weights, weights_sentence

LABELS = np.asarray([0, 0, 2, 0, 0, 2, 0, 2, 2, 0], np.int32)
NAMES = ("ham", "rare", "spam")


def asked(*weights: str) -> Settings:
    return Settings.model_validate({"loss": {"class_weights": list(weights)}})


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    wanted = compute_class_weight("balanced", classes=np.asarray([0, 2]), y=LABELS)
    assert balanced(LABELS, 3)[[0, 2]] == pytest.approx(wanted)
    found = class_weights(asked("balanced"), LABELS, NAMES)
    assert found is not None and found == pytest.approx((wanted[0], 1.0, wanted[1]))
    assert sum(np.asarray(found)[LABELS]) == pytest.approx(len(LABELS)), "the mean weight of a row is 1"
    assert weights_sentence(found, NAMES) == "class weights: ham 0.833, rare 1, spam 1.25"


def test_weights_are_given_by_label_however_they_are_written(tmp_path: Path) -> None:
    assert class_weights(asked("spam=4"), LABELS, NAMES) == (1.0, 1.0, 4.0)
    (tmp_path / "run.yaml").write_text("loss: {class_weights: {spam: 4, ham: 0.5}}")
    from_file = read_settings(str(tmp_path / "run.yaml"), {}, {})
    typed = read_settings(None, {"loss.class_weights": "spam=4, ham=0.5"}, {})
    assert from_file == typed and typed.loss.class_weights == ["spam=4", "ham=0.5"]
    assert class_weights(Settings(), LABELS, NAMES) is None


@pytest.mark.parametrize("wrong", ["spam", "spam=-1", "spam=0", "spam=much", "spam=inf", "balanced,spam=2"])
def test_weights_that_say_nothing_are_refused(wrong: str) -> None:
    with pytest.raises(SettingsError, match=r"--loss\.class_weights is .* is not a label and a positive number"):
        read_settings(None, {"loss.class_weights": wrong}, {})


def test_weights_of_labels_that_are_not_there_are_refused_with_the_nearest() -> None:
    with pytest.raises(SettingsError, match="names 'spm', which is not a label; did you mean spam"):
        class_weights(asked("spm=2"), LABELS, NAMES)
    with pytest.raises(ValueError, match=r"loss\.class_weights is for tasks with classes but task is causal-lm"):
        Settings.model_validate({"task": "causal-lm", "loss": {"class_weights": ["a=2"]}})


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, (0.5, 1.0, 4.0)])
def test_parts_of_a_step_add_up_to_what_torch_gives_for_all_of_it(
    weights: tuple[float, ...] | None, smoothing: float
) -> None:
    torch.manual_seed(1)
    logits, labels = torch.randn(10, 3), torch.from_numpy(LABELS).long()
    labels[4] = -100
    each = None if weights is None else torch.tensor(weights)
    wanted = torch.nn.functional.cross_entropy(logits, labels, weight=each, label_smoothing=smoothing)
    parts = [slice(0, 3), slice(3, 4), slice(4, 10)]
    total = sum(float(cross_entropy(logits[part], labels[part], each, smoothing)) for part in parts)
    counted = torch.ones(3) if each is None else each
    targets = sum(float(weigh(labels[part], counted)) for part in parts)
    assert total / targets == pytest.approx(float(wanted), rel=1e-6)
