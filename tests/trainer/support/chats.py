"""What tests of chat share: small chat templates, a tokenizer that has one, conversations and files of them."""

import copy
import json
from pathlib import Path
from typing import Any

import datasets
from transformers import PreTrainedTokenizerFast

import tiny
from distrain_trainer.data.tokens import Tokenized, prepare
from distrain_trainer.settings.model import Settings

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
