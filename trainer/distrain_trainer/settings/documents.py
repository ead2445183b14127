"""Reads YAML, and so JSON, in which no key may stand twice: PyYAML would keep the last one without a word."""

from typing import Any

import yaml
from yaml.nodes import MappingNode, ScalarNode


class _Loader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        """The block as it is written, before any `<<` is merged into it."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(problem=f"{key.value} stands twice", problem_mark=key.start_mark)
                seen.add(key.value)
        return node


def load_yaml(text: str) -> Any:
    """What a document holds. Raises yaml.YAMLError, also for a key that stands twice."""
    return yaml.load(text, _Loader)


def yaml_fault(error: yaml.YAMLError | UnicodeDecodeError) -> str:
    """Where a document is at fault, and how: ` at line 3: seed stands twice; keep one of them`."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return ": not a text file"
    advice = "; keep one of them" if (error.problem or "").endswith("stands twice") else ""
    return f" at line {error.problem_mark.line + 1}: {error.problem}{advice}"
