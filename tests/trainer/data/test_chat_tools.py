"""Tools, calls and reasoning in conversations, and templates that lose them."""

import json
from typing import Any

import pytest

from chats import (
    FIRST,
    PLAIN,
    SECOND,
    TOOLS,
    learned,
    refusal,
    texts,
    tokenizer_of,
)
from templates import (
    CALLS,
    CLOCK,
    FIRST_CALL,
    FOLDED,
    JOINED,
    SYSTEM,
    WEATHER,
    with_calls,
)


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
