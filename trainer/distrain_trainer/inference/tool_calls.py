"""Calls of tools in an answer, as chat templates have models write them."""

import json
import re
from typing import Any

Call = dict[str, Any]
"""{"type": "function", "function": {"name", "arguments"}}, arguments an object: as in the messages of a data set."""
BETWEEN_TAGS = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|\Z)", re.DOTALL)
"""Qwen, Hermes, and what follows them."""
DEEPSEEK = re.compile(r"<｜tool▁sep｜>(\S+?)\s*```json\s*(.*?)\s*```", re.DOTALL)
BEHIND_TAG = re.compile(r"(?:<\|python_tag\|>|\[TOOL_CALLS\])\s*(.*?)\s*(?:<\|\w+\|>|\Z)", re.DOTALL)
"""Llama and Mistral."""


def tool_calls_in(answer: str) -> list[Call]:
    """The calls in an answer, in order; none where there are none or one cannot be read."""
    answer = answer.rpartition("</think>")[2]
    if found := DEEPSEEK.findall(answer):
        texts = [f'{{"name": {json.dumps(name)}, "arguments": {arguments}}}' for name, arguments in found]
    else:
        texts = BETWEEN_TAGS.findall(answer) or BEHIND_TAG.findall(answer) or [answer]
    calls: list[Call] = []
    for text in texts:
        try:
            value = json.loads(text)
        except ValueError:
            return []
        for given in value if isinstance(value, list) else [value]:
            call = _call(given)
            if call is None:
                return []
            calls.append(call)
    return calls


def _call(given: Any) -> Call | None:
    """A call from an object with a name and arguments (Llama: parameters); None where it is none."""
    if not isinstance(given, dict):
        return None
    given = given.get("function", given)
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        return None
    arguments = given.get("arguments", given.get("parameters"))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            return None
    if not isinstance(arguments, dict):
        return None
    return {"type": "function", "function": {"name": given["name"], "arguments": arguments}}
