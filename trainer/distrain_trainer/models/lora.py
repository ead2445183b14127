"""Adapters: LoRA beside a frozen base model, which may be quantized (QLoRA).

peft makes the adapter and bitsandbytes quantizes. Here is what is chosen for them: how the base is held, which layers
get an adapter, which are trained whole, and by which names a checkpoint holds what is trained.
"""

import copy
import json
import warnings
from collections import Counter
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from distrain_trainer.errors import SettingsError
from distrain_trainer.hardware.numerics import DTYPES
from distrain_trainer.settings.model import Settings
from distrain_trainer.settings.sections import EIGHT_BITS

WEIGHTS = "adapter_model"
"""Name, without its ending, of the file of weights that peft reads."""
CONFIG = "adapter_config.json"
ALL_LINEAR = "all-linear"
PEFT_HEADS = {"score", "classifier"}
"""Heads that peft trains whole in classification without being told."""


def check_installed(settings: Settings) -> None:
    """Refuses what needs bitsandbytes where it is not installed."""
    wanted = {
        "quantization.bits": settings.quantization.bits is not None,
        f"optimizer.name {settings.optimizer.name}": settings.optimizer.name in EIGHT_BITS,
    }
    for setting, needs_it in wanted.items():
        if needs_it and find_spec("bitsandbytes") is None:
            raise SettingsError(f"{setting} needs bitsandbytes; install distrain[quantization], or remove the setting")


def loading(settings: Settings, model_class: Any, config: Any) -> dict[str, Any]:
    """How from_pretrained is to hold the base model: everything in fp32, unless there is an adapter beside it.

    model_class, config: what is about to be loaded.
    """
    if settings.lora.rank is None:
        return {"dtype": torch.float32}
    arguments: dict[str, Any] = {"dtype": DTYPES[settings.model.dtype or settings.precision]}
    quantization = settings.quantization
    if quantization.bits is not None:
        with torch.device("meta"):
            shell = model_class.from_config(config)
        arguments["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=quantization.bits == 4,
            load_in_8bit=quantization.bits == 8,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=quantization.double_quantization,
            bnb_4bit_compute_dtype=DTYPES[quantization.compute_dtype or settings.precision],
            llm_int8_skip_modules=heads(shell) or None,
        )
    return arguments


def heads(model: PreTrainedModel) -> list[str]:
    """Names of the modules beside the body of a model, such as `lm_head` or `classifier`; none where it has no body."""
    children = [name for name, _ in model.named_children()]
    return [name for name in children if name != model.base_model_prefix] if model.base_model_prefix in children else []


def attach(
    model: PreTrainedModel, settings: Settings, name: str, revision: str | None, missing: Iterable[str]
) -> nn.Module:
    """The model frozen, with a new adapter made under the seed; what is trained is fp32.

    name, revision: of the base model, for whoever loads the adapter. missing: names of the parameters that the base
    model's files lacked: they are new, so their modules are trained whole and saved with the adapter.
    """
    import peft

    lora = settings.lora
    assert lora.rank is not None
    torch.manual_seed(settings.seed)
    whole = _whole_modules(model, missing)
    _make_anew(model, whole)
    _keep_packing(model)
    _check_targets(model, settings)
    config = peft.LoraConfig(
        task_type=settings.facts.peft,
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # it divides by the rank; any number will do
        lora_dropout=lora.dropout,
        use_rslora=lora.rank_stabilized,
        use_dora=lora.dora,
        target_modules=ALL_LINEAR if lora.target_modules == [ALL_LINEAR] else lora.target_modules,
        modules_to_save=[n for n in whole if not (settings.facts.labelled and n in PEFT_HEADS)] or None,
        revision=revision,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fan_in_fan_out is set")  # it finds out by itself which layers are Conv1D
        adapted = peft.get_peft_model(model, config)
    config.base_model_name_or_path = name
    if lora.adapter is not None:
        _continue_from(adapted, settings)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return adapted


def _continue_from(model: nn.Module, settings: Settings) -> None:
    """Puts the adapter that `lora.adapter` names in the place of the new one. Raises SettingsError where they differ in
    more than their numbers."""
    lora = settings.lora
    folder = Path(lora.adapter or "").expanduser()
    folder = folder / "final" if (folder / "final" / CONFIG).exists() else folder
    if not (folder / CONFIG).exists():
        raise SettingsError(f"lora.adapter {folder} holds no adapter ({CONFIG}); name its folder, or that of its run")
    told = json.loads((folder / CONFIG).read_text())
    for name, ours, theirs in (
        ("rank", lora.rank, told["r"]),
        ("alpha", lora.alpha, told["lora_alpha"]),
        ("rank_stabilized", lora.rank_stabilized, told.get("use_rslora", False)),
        ("dora", lora.dora, told.get("use_dora", False)),
    ):
        if ours != theirs:
            raise SettingsError(f"lora.{name} is {ours} but lora.adapter {folder} has {theirs}; set it to that")
    tensors = load_file(folder / f"{WEIGHTS}.safetensors")
    wanted = {in_file: model.get_parameter(name).shape for name, in_file in saved_names(model).items()}
    if differing := sorted(tensors.keys() ^ wanted.keys()):
        raise SettingsError(
            f"lora.adapter {folder} has other layers than lora.target_modules and the task give, such as "
            f"{differing[0]}; its own are {', '.join(sorted(told['target_modules']))}"
        )
    if differing := [name for name, tensor in tensors.items() if tensor.shape != wanted[name]]:
        raise SettingsError(
            f"lora.adapter {folder} does not fit {settings.model.name}: {differing[0]} has the shape "
            f"{[*tensors[differing[0]].shape]}, not {[*wanted[differing[0]]]}; name the model it was made for"
        )
    load_weights(model, folder)


def _whole_modules(model: PreTrainedModel, missing: Iterable[str]) -> list[str]:
    """The modules of missing parameters: a whole head, or the one layer."""
    found = set()
    for name in missing:
        module, _, _ = name.rpartition(".")
        if not module:
            raise SettingsError(f"{name} is new and in no layer, so an adapter cannot go beside it; unset lora.rank")
        head = name.partition(".")[0]
        found.add(head if head in heads(model) else module)
    return sorted(found)


def _make_anew(model: PreTrainedModel, whole: Iterable[str]) -> None:
    """Layers that are trained whole are never quantized: those that were become ordinary ones with new weights."""
    for name in whole:
        layer = model.get_submodule(name)
        if isinstance(layer, nn.Linear) and type(layer) is not nn.Linear:
            new = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, device=model.device)
            model._init_weights(new)
            model.set_submodule(name, new)


def _keep_packing(model: nn.Module) -> None:
    """Keeps 4-bit weights as they are on a CPU with AVX512-BF16.

    bitsandbytes would repack them at the first evaluation for a faster product in bf16, which gives other logits than
    training saw, and has no gradient for the steps that follow.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def _check_targets(model: PreTrainedModel, settings: Settings) -> None:
    """Refuses names that are no linear layers of this model, and layers that share their weight with another."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    wanted = [target for target in settings.lora.target_modules if target != ALL_LINEAR]
    meant = {t: [name for name in layers if name == t or name.endswith(f".{t}")] for t in wanted}
    unknown = [target for target, names in meant.items() if not names]
    if unknown:
        known = dict.fromkeys(name.rpartition(".")[2] for name in layers if name.partition(".")[0] not in heads(model))
        raise SettingsError(
            f"lora.target_modules names {', '.join(unknown)}, which {settings.model.name} does not have; its linear "
            f"layers are {', '.join(known)}"
        )
    uses = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    tied = [target for target, names in meant.items() if any(uses[id(layers[name].weight)] > 1 for name in names)]
    if tied:
        raise SettingsError(
            f"lora.target_modules names {', '.join(tied)}, which shares its weight with another layer of "
            f"{settings.model.name} (tied embeddings), so the adapter could not be merged; leave it out, or untie the "
            "two in a copy of the model"
        )


# What a checkpoint holds


def is_adapter(model: nn.Module) -> bool:
    """Whether the model is a base model with an adapter."""
    return hasattr(model, "peft_config")


def saved_names(model: nn.Module) -> dict[str, str]:
    """Name of each parameter that a checkpoint holds -> its name in the file: all, or those of the adapter as peft
    names them."""
    parameters = dict(model.named_parameters())
    if not is_adapter(model):
        return {name: name for name in parameters}
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(
        model, state_dict=parameters | dict(model.named_buffers()), save_embedding_layers=False
    )
    in_file = {id(tensor): name for name, tensor in state.items()}
    return {name: in_file[id(p)] for name, p in parameters.items() if id(p) in in_file}


def write_config(model: Any, folder: Path) -> None:
    """Writes what PeftModel.from_pretrained needs beside the adapter's weights."""
    config = copy.copy(model.peft_config["default"])
    config.inference_mode = True
    config.target_modules = sorted(config.target_modules)
    config.save_pretrained(folder)


def base_of(folder: Path) -> tuple[str, str | None]:
    """Name (or folder) and revision of the model that the adapter in `folder` was trained on."""
    config = json.loads((folder / CONFIG).read_text())
    return config["base_model_name_or_path"], config["revision"]


def load_weights(model: nn.Module, folder: Path) -> None:
    """Puts the trained adapter of a folder in the place of the new one."""
    tensors = load_file(folder / f"{WEIGHTS}.safetensors")
    with torch.no_grad():
        for name, in_file in saved_names(model).items():
            model.get_parameter(name).copy_(tensors[in_file])
