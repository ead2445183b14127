"""Conversations rendered by chat templates, and what of them is learned."""

from typing import Any

import pytest
from huggingface_hub import model_info
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from chats import (
    ENDLESS,
    FIRST,
    LLAMA,
    PLAIN,
    SECOND,
    TAGGED,
    TOOLS,
    ids_of,
    learned,
    refusal,
    rows_of,
    texts,
    tokenizer_of,
)
from distrain_trainer.data.chat import Template, fit, turn_end
from distrain_trainer.data.conversations import columns_of, conversation_of
from distrain_trainer.settings.sections import Chat
from distrain_trainer.tasks.labels import IGNORE_INDEX
from templates import (
    ALTERNATING,
    DATED,
    EMPTY,
    FALSE_START,
    FOLDED,
    FORGETFUL,
    SPACED,
    SYSTEM,
    with_calls,
)


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
