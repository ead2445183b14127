"""How tokens are chosen while a model writes, and the calls of tools in what it has written."""

from pathlib import Path
from typing import Any

import pytest

from distrain_trainer.errors import SettingsError
from distrain_trainer.inference.predict import continue_texts
from distrain_trainer.inference.sampling import GREEDY, Sampling
from distrain_trainer.inference.tool_calls import tool_calls_in
from distrain_trainer.inference.trained import load

WEATHER = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Bern"}}}
TIME = {"type": "function", "function": {"name": "time", "arguments": {}}}
TEXTS = ["the cat sat", "good films", "numbers such as"]


def test_what_is_drawn_depends_on_the_seed_and_the_place_alone(llama: Path) -> None:
    trained = load(str(llama), {"task": "causal-lm"})

    def said(sampling: Sampling, texts: list[str] = TEXTS, before: int = 0) -> list[str]:
        return [row["continuation"] for row in continue_texts(trained, texts, 8, sampling, before)]

    warm = Sampling(temperature=2.0, top_p=0.9, top_k=200)
    assert said(warm) == said(warm) != said(GREEDY)
    assert said(warm) != said(Sampling(temperature=2.0, top_p=0.9, top_k=200, seed=1))
    assert said(warm, TEXTS[1:], 1) == said(warm)[1:]
    assert said(Sampling(temperature=1.0, top_k=1)) == said(GREEDY)


@pytest.mark.parametrize(
    "options", [{"temperature": -1}, {"top_p": 0, "temperature": 1}, {"top_k": -1}, {"penalty": 0}, {"top_p": 0.5}]
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        Sampling(**options)


@pytest.mark.parametrize(
    ("answer", "calls"),
    [
        ('<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call>', [WEATHER]),
        (
            '<think>\nhm</think>\nSo: <tool_call>{"name": "weather", "arguments": {"city": "Bern"}}'
            '</tool_call><tool_call>{"name": "time", "arguments": {}}</tool_call>',
            [WEATHER, TIME],
        ),
        ('<|python_tag|>{"name": "weather", "parameters": {"city": "Bern"}}<|eom_id|>', [WEATHER]),
        ('{"type": "function", "function": {"name": "weather", "arguments": "{\\"city\\": \\"Bern\\"}"}}', [WEATHER]),
        (
            '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Bern"}}, {"name": "time", "arguments": {}}]',
            [WEATHER, TIME],
        ),
        (
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n"
            '{"city": "Bern"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
            [WEATHER],
        ),
        ("It rains in Bern.", []),
        ('{"city": "Bern"}', []),
        ('<tool_call>{"name": "weather", "arguments": {"city": </tool_call>', []),
        ('<tool_call>{"name": "weather", "arguments": 5}</tool_call>', []),
    ],
)
def test_calls_are_read_as_templates_write_them(answer: str, calls: list[dict[str, Any]]) -> None:
    assert tool_calls_in(answer) == calls
