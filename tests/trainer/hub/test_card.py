"""The model card: what the Hub reads at its head, and what a person reads below."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

import hub
from distrain_trainer.hub.upload import push_model
from distrain_trainer.reporting.model_card import PLACE, model_card
from distrain_trainer.settings.sections import Hub
from hub_server import front_matter

COMMIT = "1234567890" * 4


def record_of(run: Path, **changes: Any) -> dict[str, Any]:
    """settings.json of a run. changes: of its settings, by section__name."""
    record: dict[str, Any] = json.loads((run / "final" / "settings.json").read_text())
    for name, value in changes.items():
        section, _, last = name.partition("__")
        record["settings"][section][last] = value
    return record


def head(card: str) -> dict[str, Any]:
    found = front_matter(card)
    assert found is not None
    return found


def on_the_hub(run: Path) -> dict[str, Any]:
    """The same for a run whose model and data are of the Hub."""
    names = {"model__name": "team/base", "model__revision": COMMIT, "data__name": "team/texts", "data__config": "a"}
    record = record_of(run, **names, data__evaluation_split="test")
    record["data"] |= {"commit": COMMIT[::-1], "description": "team/texts (a) at 0987654"}
    return record


def test_a_card_says_what_the_model_is_and_where_it_comes_from(finished: Path) -> None:
    card = (finished / "final" / "README.md").read_text()
    record, info = record_of(finished), json.loads((finished / "training_info.json").read_text())
    told = head(card)
    assert told["library_name"] == "transformers" and told["pipeline_tag"] == "text-classification"
    assert told["tags"] == ["distrain"] and "base_model" not in told and "datasets" not in told
    assert f"| accuracy | {info['final']['accuracy']:.4f} |" in card and "On 12 rows that were not trained on" in card
    assert "- `optimizer.learning_rate`: 0.01\n" in card and "output_dir" not in card.partition("## How it was made")[0]
    for told_too in (record["run_id"], record["data"]["fingerprint"], f"torch {record['versions']['torch']}"):
        assert told_too in card
    assert "\ndistrain train" in card


def test_the_head_of_a_card_is_what_the_hub_takes(finished: Path) -> None:
    told = head(
        model_card(on_the_hub(finished), 8, 100, None, {"accuracy": 0.5, "f1_macro": 0.25, "loss": float("nan")})
    )
    assert (told["base_model"], told["base_model_relation"], told["datasets"]) == (
        "team/base",
        "finetune",
        ["team/texts"],
    )
    assert told["metrics"] == ["accuracy", "f1"]
    (result,) = told["model-index"][0]["results"]
    assert result["task"] == {"type": "text-classification"}
    assert result["dataset"] == {
        "name": "team/texts",
        "type": "team/texts",
        "config": "a",
        "split": "test",
        "revision": COMMIT[::-1],
    }
    assert result["metrics"] == [
        {"type": "accuracy", "value": 0.5, "name": "accuracy"},
        {"type": "f1", "value": 0.25, "name": "f1 macro"},
    ]


def test_an_adapters_card_names_its_base_and_its_kind(lora: Path) -> None:
    record = record_of(lora, model__name="team/base", model__revision=COMMIT)
    told = head(model_card(record, 8, 100, None))
    assert (told["library_name"], told["base_model_relation"]) == ("peft", "adapter")
    assert told["tags"] == ["distrain", "lora"] and "model-index" not in told
    record["settings"]["quantization"]["bits"] = 4
    assert head(model_card(record, 8, 100, None))["tags"] == ["distrain", "qlora"]


@pytest.mark.parametrize("run", ["finished", "lora"])
def test_the_code_in_a_card_loads_the_model(run: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(run) / "final"
    code = (folder / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    found: dict[str, Any] = {}
    exec(code.replace(PLACE, str(folder)), found)
    answer = found["model"](**found["tokenizer"]("the cat sat", return_tensors="pt"))
    assert answer.logits.shape == (1, 3)


LICENSES = [
    ({"license": "mit"}, {"license": "mit"}),
    (
        {"license": "other", "license_name": "theirs", "license_link": "LICENSE"},
        {"license": "other", "license_name": "theirs", "license_link": "LICENSE"},
    ),
    ({"language": "en"}, {}),
    (None, {}),
]


@pytest.mark.parametrize(("of_base", "expected"), LICENSES)
def test_the_license_of_the_base_is_the_models(
    service: hub.Hub, finished: Path, tmp_path: Path, of_base: dict[str, str] | None, expected: dict[str, str]
) -> None:
    folder = shutil.copytree(finished / "final", tmp_path / "model")
    (folder / "README.md").unlink()
    (folder / "settings.json").write_text(json.dumps(on_the_hub(finished)))
    if of_base is not None:
        base = hub.Repository({"README.md": f"---\n{yaml.safe_dump(of_base)}---\n# Base\n".encode()})
        base.history.append(base.files)
        service.repositories["models/team/base"] = base
        record = on_the_hub(finished)
        record["settings"]["model"]["revision"] = base.commit
        (folder / "settings.json").write_text(json.dumps(record))
    push_model(folder, Hub(repo="me/tiny"), None, print)
    card = service.repositories["models/me/tiny"].files["README.md"].decode()
    assert {name: value for name, value in head(card).items() if name.startswith("license")} == expected
    assert head(card)["base_model"] == "team/base" and "# base fine-tuned by distrain" in card
    assert 'from_pretrained("me/tiny")' in card


def test_a_card_of_ones_own_is_pushed_as_it_is(service: hub.Hub, finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished / "final", tmp_path / "model")
    (folder / "README.md").write_text("---\nlicense: mit\n---\nMine: ü\n")
    push_model(folder, Hub(repo="me/tiny"), None, print)
    assert service.repositories["models/me/tiny"].files["README.md"].decode() == "---\nlicense: mit\n---\nMine: ü\n"
