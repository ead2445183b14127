"""Chat templates, one a behaviour, and conversations that they write."""

from typing import Any

from chats import PLAIN, TAGGED, TOOLS

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


def with_calls(change: Any) -> list[dict[str, Any]]:
    """CALLS with each call changed."""
    return [
        message | ({"tool_calls": [change(call) for call in message["tool_calls"]]} if "tool_calls" in message else {})
        for message in CALLS
    ]
