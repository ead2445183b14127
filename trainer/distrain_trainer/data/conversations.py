"""Conversations as data sets hold them, made alike: messages with roles, and the tools that they may call.

Four shapes are known by their columns: `messages` (role, content), ShareGPT's `conversations` (from, value), `prompt`
with `completion` (texts, or lists of messages), and Alpaca's `instruction`, `input` and `output`. Whatever is JSON in a
string, such as tools or the arguments of a call, becomes what it stands for.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distrain_trainer.errors import DataError
from distrain_trainer.settings.sections import Chat

AS_JSON = "\0"
"""Begins a text that stands for a value of a JSON file: Arrow would give every object the keys of all others."""
MESSAGES = ("messages", "conversations")
ASKED_AND_SAID = (("prompt", "completion"), ("instruction", "output"))
"""Pairs of columns that hold a question and its answer."""
ROLES = {
    "human": "user",
    "gpt": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function_response": "tool",
    "function": "tool",
}
"""What roles are called elsewhere."""

Message = dict[str, Any]
Tools = list[dict[str, Any]]


@dataclass(frozen=True)
class Columns:
    """Where conversations are. messages: one column, or that of the question and that of the answer. system: a column
    of system messages. context: one of what a question is about, which follows it."""

    messages: tuple[str, ...]
    tools: str | None
    system: str | None
    context: str | None = None

    @property
    def names(self) -> list[str]:
        """All of them."""
        return [*self.messages, *filter(None, (self.tools, self.system, self.context))]


@dataclass(frozen=True)
class Conversation:
    """Messages as chat templates take them: `arguments` of calls are objects, keys without a value are left out."""

    messages: list[Message]
    tools: Tools | None


def columns_of(names: Sequence[str], chat: Chat) -> Columns:
    """The columns that hold conversations; DataError lists those that are there."""
    there = "the columns are " + ", ".join(map(repr, names))
    for setting, name in (("chat.messages_column", chat.messages_column), ("chat.tools_column", chat.tools_column)):
        if name is not None and name not in names:
            raise DataError(f"{setting} '{name}' is not a column of the data; {there}")
    one = chat.messages_column or next((name for name in MESSAGES if name in names), None)
    two = next((pair for pair in ASKED_AND_SAID if set(pair) <= set(names)), None)
    if one is None and two is None:
        raise DataError(
            f"the data has no column {' or '.join(MESSAGES)}, nor prompt and completion, nor instruction and output; "
            f"{there}: set chat.messages_column to one of them"
        )
    tools = chat.tools_column or ("tools" if "tools" in names else None)
    system = "system" if "system" in names else None
    if one is None:
        assert two is not None
        return Columns(two, tools, system, "input" if two[0] == "instruction" and "input" in names else None)
    return Columns((one,), tools, system)


def conversation_of(row: Mapping[str, Any], columns: Columns, where: str) -> Conversation:
    """The conversation in a row. where: `chats.jsonl, line 3`, for the sentence of a DataError."""
    values = [plain_value(row.get(name)) for name in columns.messages]
    if len(values) == 1:
        listed = values[0] if isinstance(values[0], list) else _json(values[0], f"{where}: {columns.messages[0]}")
    else:
        listed = []
        for role, name, value in zip(("user", "assistant"), columns.messages, values, strict=True):
            if not isinstance(value, str | list):
                raise DataError(f"{where}: {name} is neither text nor a list of messages; correct the column")
            listed += [{"role": role, "content": value}] if isinstance(value, str) else value
        context = plain_value(row.get(columns.context)) if columns.context else None
        if context is not None and not isinstance(context, str):
            raise DataError(f"{where}: {columns.context} is not text; correct the column")
        if context and context.strip():
            listed[0] = listed[0] | {"content": f"{listed[0]['content']}\n\n{context}"}
    messages = messages_of(listed, where, columns.messages[0])
    system = plain_value(row.get(columns.system)) if columns.system else None
    if isinstance(system, str) and system and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    tools = plain_value(row.get(columns.tools)) if columns.tools else None
    return Conversation(messages, tools_of(tools, where))


def messages_of(listed: Any, where: str, name: str = "it") -> list[Message]:
    """A list of messages of either shape, made alike. where: as above. name: what the list is called in a DataError."""
    if not isinstance(listed, list) or not listed or not all(isinstance(message, dict) for message in listed):
        raise DataError(f"{where}: {name} is not a list of messages; correct the row or remove it")
    return [_message(message, f"{where}, message {n}") for n, message in enumerate(listed, 1)]


def as_text(value: Any) -> str | None:
    """A value of a JSON file as a text that `from_text` reads back as it was."""
    plain = value is None or (isinstance(value, str) and not value.startswith(AS_JSON))
    return value if plain else AS_JSON + json.dumps(value, ensure_ascii=False)


def from_text(text: Any) -> Any:
    """What a text of `as_text` stands for."""
    return json.loads(text.removeprefix(AS_JSON)) if isinstance(text, str) and text.startswith(AS_JSON) else text


def plain_value(value: Any) -> Any:
    """A row's value: what a text of `as_text` stands for, or itself without the nulls that Arrow adds to objects."""
    found = from_text(value)
    return _without_nulls(value) if found is value else found


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _json(value: Any, where: str) -> Any:
    """What a JSON text stands for; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise DataError(f"{where} is not JSON ({str(error).splitlines()[0]}); correct the row or remove it") from error


def _message(message: Mapping[str, Any], where: str) -> Message:
    """One message with role and content, from either shape."""
    given = {key: value for key, value in message.items() if value is not None}
    told = given.pop("role", None) or given.pop("from", None)
    if not isinstance(told, str):
        raise DataError(f"{where} has no role (or from); correct the row or remove it")
    made: Message = {"role": ROLES.get(told, told)} | given
    if "value" in given:
        made.setdefault("content", made.pop("value"))
    calls = _json(made.pop("tool_calls", None), f"{where}: tool_calls")
    if told == "function_call":  # ShareGPT's way: the text is the call
        calls = _json(made.pop("content", None), f"{where}: value")
    calls = made.pop("function_call", None) or calls
    if calls:
        made["tool_calls"] = [_call(call, where) for call in (calls if isinstance(calls, list) else [calls])]
    content = made.get("content")
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        made["content"] = "".join(part["text"] for part in content)
    elif made["role"] == "tool" and isinstance(content, dict | list):
        made["content"] = json.dumps(content, ensure_ascii=False)
    elif not isinstance(content, str | None):
        raise DataError(f"{where}: content is not text; images and audio are not supported, so remove the row")
    if content is None and not calls:
        raise DataError(f"{where} has neither content nor tool_calls; correct the row or remove it")
    return made


def _call(call: Any, where: str) -> dict[str, Any]:
    """A call with its arguments as an object: {"type": "function", "function": {"name", "arguments"}}."""
    call = _json(call, f"{where}: tool_calls")
    if isinstance(call, dict) and "function" not in call:
        call = {"type": "function", "function": call}
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise DataError(f"{where}: a tool call has no name; correct the row or remove it")
    arguments = _json(function.get("arguments") or {}, f"{where}: arguments of {function['name']}")
    if not isinstance(arguments, dict):
        raise DataError(f"{where}: arguments of {function['name']} are not a JSON object; correct the row or remove it")
    described: dict[str, Any] = call
    return described | {"function": function | {"arguments": arguments}}


def tools_of(value: Any, where: str) -> Tools | None:
    """Tools as {"type": "function", "function": {"name", "description", "parameters"}}; None where there are none."""
    value = _json(value or None, f"{where}: tools")
    listed = [_json(tool, f"{where}: tools") for tool in (value if isinstance(value, list) else [value])]
    tools = []
    for tool in filter(None, listed):
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise DataError(f"{where}: a tool has no name; correct the row or remove it")
        if isinstance(function.get("parameters"), str):
            parameters = _json(function["parameters"], f"{where}: parameters of {function['name']}")
            function = function | {"parameters": parameters}
        frame = tool if "function" in tool else {"type": "function"}
        tools.append(frame | {"function": function})
    return tools or None
