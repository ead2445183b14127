"""What tests of chat share: small chat templates, a tokenizer that has one, conversations and files of them."""

import copy
import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from transformers import PreTrainedTokenizerFast

import tiny
from distrain_trainer.data.chat import Template, fit
from distrain_trainer.data.conversations import as_text, columns_of, conversation_of
from distrain_trainer.data.tokens import Tokenized, prepare
from distrain_trainer.errors import DataError
from distrain_trainer.settings.model import Settings
from distrain_trainer.settings.sections import Chat
from distrain_trainer.tasks.labels import IGNORE_INDEX

PLAIN = """{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}
{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"""
TAGGED = """{{ bos_token }}{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}\
{%- generation -%}{{ m.content }}{{ eos_token }}{% endgeneration %}{% else %}{{ m.content }}{{ eos_token }}{% endif %}
{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"""
TOOLS = """{% if tools %}<tools>{% for tool in tools %}{{ tool | tojson }}
{% endfor %}</tools>{% endif %}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.tool_calls %}\
{% for call in m.tool_calls %}<call>{{ call.function | tojson }}</call>{% endfor %}{% endif %}{{ eos_token }}
{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"""
ENDLESS = """{% for m in messages %}{{ m.role }}: {{ m.content + '\\n' }}\
{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"""

LLAMA = tiny.byte_bpe("<s>", "</s>")
FIRST: list[dict[str, Any]] = [
    {"role": "user", "content": "the cat?"},
    {"role": "assistant", "content": "sat on the mat"},
]
SECOND: list[dict[str, Any]] = [{"role": "user", "content": "the dog?"}, {"role": "assistant", "content": "on the log"}]


def tokenizer_of(template: str | None) -> Any:
    """A small tokenizer with a chat template."""
    made = copy.deepcopy(LLAMA)
    made.chat_template = template
    return made


def prepared(tmp_path: Path, file: Path, tokenizer: PreTrainedTokenizerFast, **data: Any) -> Tokenized:
    """The rows of a file, of at most 60 tokens. data: settings of that section."""
    data = {"files": [str(file)], "cache": str(tmp_path / "cache"), "evaluation_fraction": 0} | data
    return prepare(Settings.model_validate({"task": "chat", "data": data}), tokenizer, 60, lambda _: None)


def written(file: Path, rows: list[dict[str, Any]]) -> Path:
    """Writes rows as JSON lines, or as Parquet where the name says so."""
    if file.suffix == ".parquet":
        datasets.Dataset.from_list(rows).to_parquet(file)
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


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
