"""The shapes of conversations, files of them, and the settings and templates that they take."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.byt5.tokenization_byt5 import ByT5Tokenizer

from chats import (
    FIRST,
    PLAIN,
    SECOND,
    TOOLS,
    prepared,
    rows_of,
    tokenizer_of,
    written,
)
from distrain_trainer.data.chat import use_template
from distrain_trainer.data.conversations import as_text, columns_of, conversation_of
from distrain_trainer.data.rows import Rows
from distrain_trainer.data.tokens import prepare
from distrain_trainer.errors import DataError, SettingsError
from distrain_trainer.models.load import load_model
from distrain_trainer.settings.model import Settings
from distrain_trainer.settings.sections import Chat
from templates import (
    CALLS,
    CLOCK,
    FOLDED,
    SYSTEM,
    WEATHER,
)

SHARED = [
    {"from": "system", "value": "be kind"},
    {"from": "human", "value": "the cat?"},
    {"from": "gpt", "value": "sat on the mat"},
]
SHAPES = [
    {"conversations": SHARED},
    {"conversations": json.dumps(SHARED)},
    {"conversations": SHARED[1:], "system": "be kind"},
    {"messages": [SYSTEM, *FIRST], "system": "be kind", "conversations": "unused"},
    {"prompt": [SYSTEM, FIRST[0]], "completion": [FIRST[1]]},
    {"prompt": [SYSTEM, FIRST[0]], "completion": "sat on the mat"},
    {"system": "be kind", "prompt": "the cat?", "completion": "sat on the mat"},
    {"messages": [SYSTEM, {"role": "user", "content": [{"type": "text", "text": "the cat?"}]}, FIRST[1]]},
]


@pytest.mark.parametrize("row", SHAPES)
def test_the_shapes_are_told_apart_by_their_columns(row: Any) -> None:
    assert rows_of(PLAIN, row) == rows_of(PLAIN, {"messages": [SYSTEM, *FIRST]})


def test_calls_and_answers_in_sharegpts_way() -> None:
    shared = [
        {"from": "human", "value": CALLS[0]["content"]},
        {"from": "function_call", "value": json.dumps([call["function"] for call in CALLS[1]["tool_calls"]])},
        {"from": "observation", "value": '{"degrees": 24}'},
        {"from": "gpt", "value": "it is, 24 degrees"},
    ]
    ours: dict[str, Any] = {
        "messages": [{k: v for k, v in m.items() if k != "name"} for m in CALLS],
        "tools": [WEATHER],
    }
    ours["messages"][1] = {k: v for k, v in CALLS[1].items() if k != "content"}
    assert rows_of(TOOLS, {"conversations": shared, "tools": json.dumps([WEATHER])}) == rows_of(TOOLS, ours)


def test_columns_by_name_and_those_that_are_missing() -> None:
    row = {"talk": FIRST, "messages": SECOND, "functions": [WEATHER]}
    found = rows_of(TOOLS, row, messages_column="talk", tools_column="functions")
    assert found == rows_of(TOOLS, {"messages": FIRST, "tools": [WEATHER]})
    others = "nor prompt and completion, nor instruction and output; the col"
    with pytest.raises(DataError, match=f"has no column messages or conversations, {others}"):
        columns_of(["text", "label"], Chat())
    with pytest.raises(DataError, match=r"chat\.tools_column 'functions' is not a column of the data"):
        columns_of(["messages"], Chat(tools_column="functions"))


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_a_value_of_a_json_file_survives_as_a_text(value: Any) -> None:
    row = {"messages": as_text([{"role": "user", "content": "x", "extra": value}])}
    message = conversation_of(row, columns_of(list(row), Chat()), "row 1").messages[0]
    assert message == {"role": "user", "content": "x"} | ({} if value is None else {"extra": value})


def lists_of(rows: Rows) -> list[tuple[list[int], list[int]]]:
    assert rows.labels is not None
    spans = [slice(start, stop) for start, stop in zip(rows.offsets, rows.offsets[1:], strict=False)]
    return [(rows.input_ids[span].tolist(), rows.labels[span].tolist()) for span in spans]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_rows_of_a_file_are_those_of_its_conversations(tmp_path: Path, name: str) -> None:
    rows: list[dict[str, Any]] = [
        {"messages": FIRST, "tools": None},
        {"messages": FIRST + SECOND * 9},
        {"messages": SECOND * 2},
    ]
    rows.append({"messages": [{"role": "user", "content": "cat " * 70}, FIRST[1]]})
    made = prepared(tmp_path, written(tmp_path / name, rows), tokenizer_of(PLAIN))
    kept = [rows_of(PLAIN, row, 60)[0] for row in rows[:3]]
    assert lists_of(made.train) == kept
    counts = {name: made.counts[f"train_{name}"] for name in ("texts", "rows", "truncated", "dropped_long", "split")}
    assert counts == {"texts": 4, "rows": 3, "truncated": 1, "dropped_long": 1, "split": 0}
    strict = prepared(tmp_path, tmp_path / name, tokenizer_of(PLAIN), long_texts="drop")
    assert (strict.counts["train_rows"], strict.counts["train_dropped_long"]) == (2, 2)


def test_the_cache_knows_the_template_and_a_fifth_is_held_out(tmp_path: Path) -> None:
    file = written(tmp_path / "a.jsonl", [{"messages": FIRST}] * 10)
    plain = prepared(tmp_path, file, tokenizer_of(PLAIN), evaluation_fraction=None)
    again = prepared(tmp_path, file, tokenizer_of(PLAIN), evaluation_fraction=0.2)
    other = prepared(tmp_path, file, tokenizer_of(FOLDED))
    assert plain.evaluation is not None and (len(plain.train), len(plain.evaluation)) == (8, 2)
    assert plain.fingerprint == again.fingerprint != other.fingerprint
    assert len(list((tmp_path / "cache" / "tokens").glob("*/meta.json"))) == 2


def test_calls_in_a_json_file_keep_their_keys_and_nulls(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"messages": CALLS, "tools": [WEATHER, CLOCK]}, {"messages": FIRST}]
    file = written(tmp_path / "a.json", rows)
    data = {"files": [str(file)], "cache": str(tmp_path / "cache"), "evaluation_fraction": 0}
    settings = Settings.model_validate({"task": "chat", "data": data})
    made = prepare(settings, tokenizer_of(TOOLS), 1000, lambda _: None)
    assert lists_of(made.train)[0] == rows_of(TOOLS, rows[0])[0]


def test_a_row_that_is_refused_is_named(tmp_path: Path) -> None:
    file = written(tmp_path / "a.jsonl", [{"messages": FIRST}, {"messages": [SYSTEM]}])
    with pytest.raises(DataError, match=r"a\.jsonl, line 2 has no assistant turn"):
        prepared(tmp_path, file, tokenizer_of(PLAIN))
    file.write_text('[{"messages": []}, 7]')
    with pytest.raises(DataError, match=r"a\.jsonl, row 2: int instead of an object"):
        prepared(tmp_path, file, tokenizer_of(PLAIN))


REFUSED = [
    ({"data": {"long_texts": "split"}}, "data.long_texts=split would cut turns"),
    ({"data": {"stride": 4}}, "data.stride is for texts that are split"),
    ({"data": {"text_column": "x"}}, "set chat.messages_column"),
    ({"data": {"clean": True}}, "data.clean folds white space"),
    ({"task": "causal-lm", "chat": {"template": "x"}}, "section chat are for task chat but task is causal-lm"),
]


@pytest.mark.parametrize(("asked", "sentence"), REFUSED)
def test_settings_that_do_not_fit_conversations_are_refused(asked: Any, sentence: Any) -> None:
    with pytest.raises(ValueError, match=sentence.replace(".", r"\.")):
        Settings.model_validate({"task": "chat"} | asked)


def test_the_template_comes_from_the_tokenizer_or_a_file(tmp_path: Path) -> None:
    tokenizer, file = tokenizer_of(None), tmp_path / "mine.jinja"
    settings = Settings.model_validate({"task": "chat", "chat": {"template": str(file)}})
    with pytest.raises(SettingsError, match=r"has no chat template; set chat\.template"):
        use_template(tokenizer, Settings(task="chat"))
    with pytest.raises(SettingsError, match=r"mine\.jinja cannot be read"):
        use_template(tokenizer, settings)
    file.write_text(PLAIN)
    use_template(tokenizer, settings)
    assert tokenizer.chat_template == PLAIN
    slow = ByT5Tokenizer()
    with pytest.raises(SettingsError, match="not a fast one"):
        use_template(slow, settings)


FLAGS = [
    ({"temperature": 0.9, "top_p": 0.6}, {"do_sample": True, "temperature": 0.9}),
    ({"temperature": 0.9, "do_sample": False}, {"do_sample": None, "temperature": None}),
    ({"temperature": 0.9, "early_stopping": True}, {"do_sample": None, "early_stopping": None}),
    ({"do_sample": True, "top_k": 20}, {"do_sample": True, "top_k": 20}),
    ({"repetition_penalty": 1.1}, {"do_sample": None, "repetition_penalty": 1.1}),
]


@pytest.mark.parametrize(("flags", "kept"), FLAGS)
@pytest.mark.parametrize("task", ["chat", "causal-lm"])
def test_flags_of_generation_that_have_no_effect_do_not_end_a_run(
    llama: Path, tmp_path: Path, flags: Any, kept: Any, task: str
) -> None:
    shutil.copytree(llama, tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps({"eos_token_id": 0} | flags))
    model = load_model(
        Settings.model_validate({"task": task}), str(tmp_path / "model"), None, tokenizer_of(PLAIN), None
    )
    model.generation_config.eos_token_id = [0, 1]  # transformers is strict with what has changed
    model.generation_config.save_pretrained(tmp_path)
    assert {name: getattr(model.generation_config, name) for name in kept} == kept
