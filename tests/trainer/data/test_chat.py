"""Conversations: their shapes, their rendering by chat templates, and what of it is learned."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import model_info
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer
from transformers.models.byt5.tokenization_byt5 import ByT5Tokenizer

from chats import (
    ENDLESS,
    FIRST,
    LLAMA,
    PLAIN,
    SECOND,
    TAGGED,
    TOOLS,
    prepared,
    tokenizer_of,
    written,
)
from distrain_trainer.data.chat import Template, fit, turn_end, use_template
from distrain_trainer.data.conversations import as_text, columns_of, conversation_of
from distrain_trainer.data.text import IGNORE_INDEX
from distrain_trainer.data.tokens import Rows, prepare
from distrain_trainer.errors import DataError, SettingsError
from distrain_trainer.models.load import load_model
from distrain_trainer.settings.model import Settings
from distrain_trainer.settings.sections import Chat

ROOT = Path(__file__).parents[3]

# Templates, one a behaviour

FOLDED = """{{ bos_token }}{% if messages[0].role == 'system' %}{% set system = messages[0].content + '\\n\\n' %}\
{% set rest = messages[1:] %}{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}{% for m in rest %}\
{% if m.role == 'user' %}[INST] {{ (system if loop.first else '') + m.content }} [/INST]\
{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"""
ALTERNATING = (
    """{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('roles must alternate user/assistant/user/assistant') }}{% endif %}{% endfor %}"""
    + PLAIN
)
FORGETFUL = """{% set ns = namespace(user=0) %}{% for m in messages %}{% if m.role == 'user' %}\
{% set ns.user = loop.index0 %}{% endif %}{% endfor %}{% for m in messages %}<{{ m.role }}>\
{% if m.role == 'assistant' and loop.index0 > ns.user %}{{ '<think>' + m.reasoning_content + '</think>' }}{% endif %}\
{{ m.content + eos_token }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"""
FIRST_CALL = TOOLS.replace("in m.tool_calls %}", "in m.tool_calls[:1] %}")
JOINED = TOOLS.replace("call.function | tojson", "call.function.name + ' ' + call.function.arguments")
DATED = "{{ strftime_now('%d %B %Y') }} {{ strftime_now( \"%H\" ) }} " + PLAIN
FALSE_START = PLAIN.replace("<assistant>{% endif %}", "<assistant><think>{% endif %}")
SPACED = TAGGED.replace("{{ m.content }}{{ eos_token }}{% endgen", "{{ ' ' + m.content }}{{ eos_token }}{% endgen")
EMPTY = "{% for m in messages %}<{{ m.role }}>{% generation %}{% endgeneration %}{{ m.content }}{% endfor %}"


SYSTEM = {"role": "system", "content": "be kind"}
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Wetter für heute",
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "default": None}}},
    },
}
CLOCK: dict[str, Any] = {
    "type": "function",
    "function": {"name": "clock", "parameters": {"properties": {}, "type": "object"}},
}
CALLS: list[dict[str, Any]] = [
    {"role": "user", "content": "is it warm in Köln?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"type": "function", "function": {"name": "weather", "arguments": {"city": "Köln <&>", "days": None}}},
            {"type": "function", "function": {"name": "clock", "arguments": {}}},
        ],
    },
    {"role": "tool", "name": "weather", "content": '{"degrees": 24}'},
    {"role": "assistant", "content": "it is, 24 degrees"},
]


def rows_of(
    template: str, row: dict[str, Any], max_length: int = 10_000, **chat: Any
) -> list[tuple[list[int], list[int]]]:
    """(ids, targets) of each sample of one row of a JSON file."""
    row = {name: as_text(value) for name, value in row.items()}
    at_work = Template(tokenizer_of(template))
    conversation = conversation_of(row, columns_of(list(row), Chat(**chat)), "training row 1")
    samples = at_work.samples(conversation, "training row 1")
    fitted = [
        fit(sample, encoded, at_work, max_length)
        for sample, encoded in zip(samples, at_work.encode([sample.text for sample in samples]), strict=True)
    ]
    return [(ids, targets) for _, ids, targets in fitted if ids]


def learned(template: str, messages: list[dict[str, Any]], **row: Any) -> list[list[str]]:
    """The texts that are learned, of each sample."""
    found = []
    for ids, targets in rows_of(template, {"messages": messages} | row):
        assert all(target in (token, IGNORE_INDEX) for token, target in zip(ids, targets, strict=True))
        runs: list[list[int]] = []
        before = IGNORE_INDEX
        for target in targets:
            if target != IGNORE_INDEX:
                if before == IGNORE_INDEX:
                    runs.append([])
                runs[-1].append(target)
            before = target
        found.append([str(LLAMA.decode(run)) for run in runs])
    return found


def texts(template: str, messages: list[dict[str, Any]], **row: Any) -> list[str]:
    return [str(LLAMA.decode(ids)) for ids, _ in rows_of(template, {"messages": messages} | row)]


def ids_of(template: str, messages: list[dict[str, Any]]) -> list[int]:
    """Token ids of the tokenizer's own rendering."""
    ids: list[int] = tokenizer_of(template).apply_chat_template(messages, return_dict=True)["input_ids"]
    return ids


def refusal(template: str, messages: list[dict[str, Any]], **row: Any) -> str:
    with pytest.raises(DataError) as caught:
        rows_of(template, {"messages": messages} | row)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What is learned


@pytest.mark.parametrize("template", [PLAIN, TAGGED, ALTERNATING])
def test_only_the_assistants_turns_with_their_end_are_learned(template: str) -> None:
    assert learned(template, FIRST + SECOND) == [["sat on the mat</s>", "on the log</s>"]]
    ids, _ = rows_of(template, {"messages": FIRST + SECOND})[0]
    own = ids_of(template, FIRST + SECOND)
    assert ids == own
    assert ids.count(LLAMA.bos_token_id) == 1


def test_a_system_message_that_is_folded_into_the_first_turn_is_kept_and_not_learned() -> None:
    assert texts(FOLDED, [SYSTEM, *FIRST]) == ["<s>[INST] be kind\n\nthe cat? [/INST] sat on the mat</s>"]
    assert learned(FOLDED, [SYSTEM, *FIRST, *SECOND]) == [[" sat on the mat</s>", " on the log</s>"]]


def test_alternation_that_a_template_wants_is_told_in_its_own_words() -> None:
    sentence = refusal(ALTERNATING, [SYSTEM, *FIRST])
    assert "training row 1: the chat template refuses it (roles must alternate" in sentence
    assert "be kind" in sentence and "chat.template" in sentence


def test_where_earlier_reasoning_is_dropped_each_turn_is_a_sample_of_its_own() -> None:
    thought: list[dict[str, Any]] = [
        message | {"reasoning_content": f"hm {n}"} for n, message in enumerate(FIRST + SECOND)
    ]
    assert learned(FORGETFUL, thought) == [
        ["<think>hm 1</think>sat on the mat</s>"],
        ["<think>hm 3</think>on the log</s>"],
    ]
    first, second = texts(FORGETFUL, thought)
    assert "hm 1" in first and "hm 1" not in second and "sat on the mat" in second


def test_tags_of_a_template_that_drops_earlier_reasoning_count_for_the_last_turn_of_each_sample() -> None:
    tagged = FORGETFUL.replace("{% if m.role == 'assistant' and", "{% generation %}{% if m.role == 'assistant' and")
    tagged = tagged.replace("{{ m.content + eos_token }}", "{{ m.content + eos_token }}{% endgeneration %}")
    thought: list[dict[str, Any]] = [
        message | {"reasoning_content": f"hm {n}"} for n, message in enumerate(FIRST + SECOND)
    ]
    assert learned(tagged, thought) == [
        ["<think>hm 1</think>sat on the mat</s>"],
        ["<think>hm 3</think>on the log</s>"],
    ]


def test_a_token_that_reaches_into_a_turn_belongs_to_it() -> None:
    assert LLAMA.tokenize(": sat") == [":", "Ġsat"]
    assert learned(SPACED, FIRST) == [[" sat on the mat</s>"]]
    assert learned(ENDLESS, FIRST) == [[" sat on the mat\n"]]


def test_an_opening_turn_of_the_assistant_is_context() -> None:
    assert learned(PLAIN, [{"role": "assistant", "content": "hello"}, *FIRST]) == [["sat on the mat</s>"]]


def test_what_follows_the_last_turn_of_the_assistant_is_left_out() -> None:
    assert texts(PLAIN, [*FIRST, SECOND[0]]) == texts(PLAIN, FIRST)


def test_todays_date_is_the_same_every_day() -> None:
    assert texts(DATED, FIRST)[0].startswith("01 January 2025 00 <s>")


def test_the_token_that_ends_a_turn() -> None:
    assert turn_end(tokenizer_of(PLAIN)) == LLAMA.eos_token_id
    assert turn_end(tokenizer_of(ENDLESS)) is None
    assert turn_end(tokenizer_of("{{ raise_exception('never') }}")) is None


words = st.text("abc xyz", min_size=1, max_size=12).filter(str.strip)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(words, words), min_size=1, max_size=5), st.booleans(), st.integers(8, 90), st.booleans())
def test_a_long_conversation_keeps_as_many_whole_turns_as_fit(
    pairs: Any, system: Any, max_length: Any, tagged: Any
) -> None:
    template = TAGGED if tagged else PLAIN
    messages = [SYSTEM] * system
    lengths, answers = [], []
    for question, reply in pairs:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
        lengths.append(len(ids_of(template, messages)))
        answers.append(reply + "</s>")
    whole = sum(length <= max_length for length in lengths)
    found = rows_of(template, {"messages": messages}, max_length)
    if not whole:
        assert not found
        return
    kept = messages[: system + 2 * whole]
    ids, targets = found[0]
    assert ids == ids_of(template, kept)
    assert LLAMA.decode([target for target in targets if target != IGNORE_INDEX]) == "".join(answers[:whole])


# Tools


def test_a_sample_with_tools_is_byte_for_byte_what_the_tokenizer_renders() -> None:
    tools = [WEATHER, CLOCK]
    own = tokenizer_of(TOOLS).apply_chat_template(CALLS, tools=tools, tokenize=False)
    assert texts(TOOLS, CALLS, tools=tools) == [own]
    assert '"city": "Köln <&>", "days": null' in own
    calls = (
        '<call>{"name": "weather", "arguments": {"city": "Köln <&>", "days": null}}</call>'
        '<call>{"name": "clock", "arguments": {}}</call></s>'
    )
    assert learned(TOOLS, CALLS, tools=tools) == [[calls, "it is, 24 degrees</s>"]]


def with_calls(change: Any) -> list[dict[str, Any]]:
    """CALLS with each call changed."""
    return [
        message | ({"tool_calls": [change(call) for call in message["tool_calls"]]} if "tool_calls" in message else {})
        for message in CALLS
    ]


SAME_TOOLS = [
    json.dumps([WEATHER, CLOCK]),
    [json.dumps(WEATHER), json.dumps(CLOCK)],
    [WEATHER["function"], CLOCK["function"]],
    [
        {"type": "function", "function": tool["function"] | {"parameters": json.dumps(tool["function"]["parameters"])}}
        for tool in (WEATHER, CLOCK)
    ],
]


@pytest.mark.parametrize("tools", SAME_TOOLS)
def test_tools_and_parameters_in_json_strings_are_the_same_tools(tools: Any) -> None:
    assert texts(TOOLS, CALLS, tools=tools) == texts(TOOLS, CALLS, tools=[WEATHER, CLOCK])


@pytest.mark.parametrize(
    "change",
    [
        lambda call: (
            call
            | {
                "function": call["function"]
                | {"arguments": json.dumps(call["function"]["arguments"], ensure_ascii=False)}
            }
        ),
        lambda call: call["function"],
        json.dumps,
    ],
)
def test_calls_are_the_same_in_json_strings_and_without_a_frame(change: Any) -> None:
    assert texts(TOOLS, with_calls(change), tools=[WEATHER]) == texts(TOOLS, CALLS, tools=[WEATHER])


def test_a_template_that_joins_arguments_to_text_gets_them_as_json() -> None:
    assert '<call>weather {"city": "Köln <&>", "days": null}</call>' in texts(JOINED, CALLS, tools=[WEATHER])[0]


def test_a_template_that_ignores_tools_or_loses_a_call_is_refused() -> None:
    sentence = refusal(PLAIN, FIRST, tools=[WEATHER])
    assert "training row 1 has tools, but the chat template writes the same text without them; set chat.template" in (
        sentence
    )
    assert "sat on the mat" in sentence
    assert "leaves out the call of weather in message 2" in refusal(PLAIN, CALLS)
    assert "leaves out the call of clock in message 2" in refusal(FIRST_CALL, CALLS, tools=[WEATHER])
    deaf = TOOLS.replace("{% for m in messages %}", "{% for m in messages if m.role != 'tool' %}")
    assert "leaves out the tool's answer in message 3" in refusal(deaf, CALLS, tools=[WEATHER])
    named = TOOLS.replace("call.function |", "call.function.name |")
    assert "leaves out the arguments of weather in message 2" in refusal(named, CALLS, tools=[WEATHER])


def test_a_template_that_loses_reasoning_is_refused() -> None:
    thought = [FIRST[0], FIRST[1] | {"reasoning_content": "cats sit"}]
    assert "leaves out the reasoning of message 2; set chat.template" in refusal(PLAIN, thought)
    inside = [FIRST[0], {"role": "assistant", "content": "<think>cats sit</think>\n\non the mat"}]
    assert learned(PLAIN, inside) == [["<think>cats sit</think>\n\non the mat</s>"]]
    cutting = PLAIN.replace("{{ m.content }}", "{{ m.content.split('</think>')[-1] }}")
    assert "leaves out the reasoning of message 2" in refusal(cutting, inside)


def test_a_template_that_drops_a_message_is_refused() -> None:
    deaf = PLAIN.replace("in messages %}", "in messages if m.role in ('user', 'assistant') %}")
    sentence = refusal(deaf, [SYSTEM, *FIRST])
    assert "leaves out message 1, whose role is system; set chat.template" in sentence and "sat on the mat" in sentence
    assert "leaves out message 3, whose role is bot;" in refusal(
        deaf, [*FIRST, {"role": "bot", "content": "a"}, *SECOND]
    )
    first = FOLDED.replace("(system if loop.first else '') + m.content", "system + (m.content if loop.first else '')")
    assert "leaves out message 4, whose role is user;" in refusal(first, [SYSTEM, *FIRST, *SECOND])
    assert learned(deaf, [{"role": "system", "content": " "}, *FIRST]) == [["sat on the mat</s>"]]
    # Templates look at how a message begins and ends.
    shy = PLAIN.replace("in messages %}", "in messages if m.content.endswith('/think') or m.role == 'assistant' %}")
    for content in ("the dog? /think", "?\n/think"):
        assert learned(shy, [{"role": "user", "content": content}, FIRST[1]]) == [["sat on the mat</s>"]]


@pytest.mark.parametrize("template", [PLAIN, TAGGED, FOLDED])
def test_a_turn_of_weight_0_is_context(template: str) -> None:
    silent = FIRST[1] | {"weight": 0}
    said = {"role": "assistant", "content": "on the log", "weight": 1}
    assert texts(template, [FIRST[0], silent, SECOND[0], said]) == texts(template, FIRST + SECOND)
    (found,) = learned(template, [FIRST[0], silent, SECOND[0], said])
    assert [turn.strip() for turn in found] == ["on the log</s>"]
    (found,) = learned(template, [FIRST[0], said, SECOND[0], silent])
    assert [turn.strip() for turn in found] == ["on the log</s>"]
    assert "has no assistant turn to learn" in refusal(template, [FIRST[0], silent])


def test_weight_0_also_holds_where_each_turn_is_a_sample() -> None:
    thought: list[dict[str, Any]] = [
        message | {"reasoning_content": f"hm {n}"} for n, message in enumerate(FIRST + SECOND)
    ]
    thought[1]["weight"] = 0
    assert learned(FORGETFUL, thought) == [["<think>hm 3</think>on the log</s>"]]


def test_errors_show_the_sample() -> None:
    assert 'has no assistant turn to learn; correct or remove it; it is "[{\\"role\\"' in refusal(PLAIN, [SYSTEM])
    assert "nothing to learn: the chat template leaves its assistant turns empty" in refusal(EMPTY, FIRST)
    assert "does not begin message" in refusal(FALSE_START, FIRST)
    assert "message 1 has no role (or from)" in refusal(PLAIN, [{"content": "?"}])
    assert "message 2 has neither content nor tool_calls" in refusal(PLAIN, [FIRST[0], {"role": "assistant"}])
    picture: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "image", "url": "a.png"}]}, FIRST[1]]
    assert "message 1: content is not text" in refusal(PLAIN, picture)
    bad = with_calls(lambda call: {"name": "weather", "arguments": "{city"})
    assert "message 2: arguments of weather is not JSON" in refusal(TOOLS, bad)
    assert "tools is not JSON" in refusal(TOOLS, FIRST, tools="[{")
    assert "a tool has no name" in refusal(TOOLS, FIRST, tools=[{"type": "function"}])
    assert "messages is not a list of messages" in refusal(PLAIN, [])


# Shapes


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
    with pytest.raises(DataError, match="has no column messages or conversations, nor prompt and completion; the col"):
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


# Rows


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
    with pytest.raises(DataError, match="training row 2 has no assistant turn"):
        prepared(tmp_path, file, tokenizer_of(PLAIN))
    file.write_text('[{"messages": []}, 7]')
    with pytest.raises(DataError, match="holds int instead of objects"):
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


# Templates as they are published

PUBLISHED = [
    "Qwen/Qwen2.5-0.5B-Instruct",
    "Qwen/Qwen3-0.6B",
    "HuggingFaceTB/SmolLM2-135M-Instruct",
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
    "microsoft/Phi-3.5-mini-instruct",
    "unsloth/Llama-3.2-1B-Instruct",
    "unsloth/mistral-7b-instruct-v0.3",
    "unsloth/gemma-2-2b-it",
]


@pytest.mark.hub
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_template_lets_only_answers_be_learned(name: str) -> None:
    try:
        model_info(name, timeout=5)
    except Exception as error:
        pytest.skip(f"{name} cannot be had from the Hub: {error}")
    tokenizer = AutoTokenizer.from_pretrained(name)
    template = Template(tokenizer)
    row = {"messages": FIRST + SECOND}
    samples = template.samples(conversation_of(row, columns_of(list(row), Chat()), "row 1"), "row 1")
    parts = []
    for sample, encoded in zip(samples, template.encode([sample.text for sample in samples]), strict=True):
        _, ids, targets = fit(sample, encoded, template, 10_000)
        kept = [target for target in targets if target != IGNORE_INDEX]
        assert turn_end(tokenizer) in kept and len(kept) < len(ids)
        parts.append(str(tokenizer.decode(kept)))
    whole = "".join(parts)
    assert "sat on the mat" in whole and "on the log" in whole
    assert "the cat?" not in whole and "the dog?" not in whole
    own = str(tokenizer.apply_chat_template(FIRST + SECOND, tokenize=False))
    assert samples[-1].text.rstrip() == own.rstrip() or "strftime_now" in tokenizer.chat_template
