"""The pretrained model and its tokenizer."""

import copy
import difflib
import fnmatch
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import transformers
from accelerate import init_empty_weights
from safetensors import safe_open
from torch import nn
from transformers import (
    AddedToken,
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations.neftune import activate_neftune
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.hub import cached_file, get_checkpoint_shard_files

from distrain_trainer.data.chat import turn_end
from distrain_trainer.errors import SettingsError
from distrain_trainer.hub.commits import at, commit_of
from distrain_trainer.hub.errors import hub_error
from distrain_trainer.memory.model_shapes import local_model
from distrain_trainer.models import lora
from distrain_trainer.settings.model import Settings
from distrain_trainer.settings.sections import SHARDED, Model
from distrain_trainer.tasks.table import TASKS


def model_class(settings: Settings) -> Any:
    """The class of transformers that loads a model for the task."""
    return getattr(transformers, settings.facts.model_class)


def resolve(model: Model) -> tuple[str, str | None]:
    """Where the model is: (Hub name or folder, commit on the Hub or None for a folder)."""
    folder = local_model(model.name)
    if folder:
        if not (folder / "config.json").exists():
            raise SettingsError(f"model.name {model.name} is a folder without config.json; name a model's folder")
        return str(folder.resolve()), None
    return model.name, commit_of("model", model.name, model.revision)


def load_config(name: str, revision: str | None, **changes: Any) -> Any:
    """The model's configuration; what the Hub answers is told apart in one sentence (64)."""
    try:
        config = AutoConfig.from_pretrained(name, **at(revision), **changes)
    except (OSError, ValueError) as error:
        raise hub_error(error, "model", name, revision) from error
    if getattr(config, "quantization_config", None):
        raise SettingsError(
            f"{name} is stored quantized, which cannot be trained; name the model it was made from, and set "
            "quantization.bits and lora.rank to train it quantized"
        )
    return config


def load_tokenizer(name: str, revision: str | None, added: Sequence[str] = ()) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with a pad token: where there is none, the end-of-text token serves. added: further tokens
    of their own."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **at(revision))
    except (OSError, ValueError) as error:
        raise hub_error(error, "model", name, revision) from error
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise SettingsError(f"the tokenizer of {name} has neither a pad nor an end-of-text token; add one to it")
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in added])
    return tokenizer


def check_kind(settings: Settings, config: Any) -> None:
    """Refuses (SettingsError) a model without a decoder of its own for a task that writes another text, and one with an
    encoder for a task that continues a text."""
    if settings.facts.writes and not config.is_encoder_decoder:
        raise SettingsError(
            f"task is {settings.task} but {settings.model.name} has no encoder and decoder; choose a model such as T5 "
            "or BART, or task causal-lm or chat for a decoder alone"
        )
    if settings.facts.causal and config.is_encoder_decoder:
        raise SettingsError(
            f"task is {settings.task} but {settings.model.name} has an encoder and a decoder; set task to "
            "sequence-to-sequence, or choose a decoder such as GPT-2 or Llama"
        )


def longest_row(settings: Settings, config: Any, tokenizer: PreTrainedTokenizerBase) -> int:
    """`data.max_length`, or the model's maximum or `batch.tokens`, whichever is less, beside the longest target."""
    wanted, tokens = settings.data.max_length, settings.batch.tokens
    if tokens == "auto":
        if wanted is None:
            raise SettingsError(
                "batch.tokens is auto, which is decided where the run trains; set data.max_length to tokenize ahead"
            )
        tokens = wanted
    maximum = min(
        tokenizer.model_max_length, getattr(config.get_text_config(), "max_position_embeddings", None) or tokens
    )
    if settings.facts.writes and settings.data.max_target_length > maximum:
        raise SettingsError(
            f"data.max_target_length is {settings.data.max_target_length} but {settings.model.name} accepts at most "
            f"{maximum} tokens; lower it"
        )
    if wanted is None:
        return min(maximum, settings.longest_in(tokens))
    if wanted > maximum:
        raise SettingsError(
            f"data.max_length is {wanted} but {settings.model.name} accepts at most {maximum} tokens; lower it"
        )
    return wanted


def load_model(
    settings: Settings,
    name: str,
    revision: str | None,
    tokenizer: PreTrainedTokenizerBase,
    label_names: tuple[str, ...] | None,
) -> Any:
    """The model in fp32, or frozen with an adapter as `lora` asks; what it lacks for the task is made under the seed.
    Safetensors only, no remote code.

    Where the strategy will cut parameters apart, they are left as they are stored: mapped from their files, whose
    pages all processes of a node share. `widened_parts` then makes them fp32.
    label_names: of the labels, in the order of their ids; None where they come from no column.
    """
    config = load_config(name, revision, **TASKS[settings.task].head(label_names or ()))
    loader = model_class(settings)

    def load(**held: Any) -> tuple[Any, list[str]]:
        """The model, and the names of the parameters that its files lack."""
        torch.manual_seed(settings.seed)
        try:
            model, found = loader.from_pretrained(
                name,
                config=config,
                attn_implementation=settings.model.attention,
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=settings.facts.labelled,
                output_loading_info=True,
                **at(revision),
                **held,
            )
        except (OSError, ValueError) as error:
            raise hub_error(error, "model", name, revision) from error
        return model, [*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])]

    if settings.lora.rank is None and settings.strategy.kind in SHARDED:
        model, missing = load(dtype=stored_type(name, revision))
        if (
            missing or settings.model.added_tokens
        ) and model.dtype != torch.float32:  # what is new is drawn in fp32, as under any other strategy
            model, missing = load(dtype=torch.float32)
    else:
        model, missing = load(**lora.loading(settings, loader, config))
    if settings.model.added_tokens:
        add_rows(model, len(tokenizer), settings.seed)
    model.config.pad_token_id = tokenizer.pad_token_id
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        model.get_input_embeddings().padding_idx = None  # which would keep the end of a text from being learned
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        raise SettingsError(
            f"{settings.model.name} has BatchNorm layers, whose statistics depend on how a step is dealt to "
            "processes; choose a model with LayerNorm"
        )
    if settings.model.gradient_checkpointing:
        if not model.supports_gradient_checkpointing:
            raise SettingsError(f"{settings.model.name} has no gradient checkpointing; set it to false")
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if model.can_generate():
        make_savable(model)
    if settings.facts.holds == "messages" or (settings.facts.compares and tokenizer.chat_template):
        stop_at_turn_end(model, tokenizer)
    model.had_cache = getattr(model.config, "use_cache", False)
    if model.had_cache:
        model.config.use_cache = False
    freeze(model, settings.model.freeze or [], settings.model.name)
    if settings.lora.rank is not None:
        model = lora.attach(model, settings, name, revision, missing)
    if settings.model.embedding_noise:
        activate_neftune(model, settings.model.embedding_noise)
    if settings.model.compile:
        # The loss of a language model may take its output layer apart from the rest.
        compiled = model.get_decoder() if settings.facts.causal else model
        compiled.compile(dynamic=True)
    return model


def add_rows(model: PreTrainedModel, tokens: int, seed: int) -> None:
    """Gives the embeddings a row for each token that they lack, drawn around the mean of the others under the seed."""
    embeddings: Any = model.get_input_embeddings()
    if embeddings.num_embeddings < tokens:
        torch.manual_seed(seed)
        model.resize_token_embeddings(tokens)


def stored_type(name: str, revision: str | None) -> torch.dtype:
    """The type that all of a model's weights are stored in; fp32 where there are several."""
    try:
        index = cached_file(name, SAFE_WEIGHTS_INDEX_NAME, **at(revision), _raise_exceptions_for_missing_entries=False)
        if index:
            files, _ = get_checkpoint_shard_files(name, index, **at(revision))
        else:
            files = [cached_file(name, SAFE_WEIGHTS_NAME, **at(revision))]
    except OSError as error:
        raise hub_error(error, "model", name, revision) from error
    types = set()
    for path in files:
        with safe_open(path, "pt") as file:
            types |= {file.get_slice(tensor).get_dtype() for tensor in file.keys()}  # noqa: SIM118
    floats = types & {"F64", "F32", "F16", "BF16"}
    return {"F16": torch.float16, "BF16": torch.bfloat16}.get("".join(floats), torch.float32)


def widened_parts(model: PreTrainedModel) -> Iterator[nn.Module]:
    """The model's blocks, then the model: what is cut apart at a time.

    Weights that are to be trained become fp32 with the part that they are in, just before it is handed out, so that no
    process ever holds all of them in fp32. Of a model with an adapter nothing changes.
    """
    blocks = set(getattr(model, "_no_split_modules", None) or ())
    inner = [module for module in model.modules() if type(module).__name__ in blocks]
    stored = not lora.is_adapter(model) and model.dtype != torch.float32
    if stored:
        _widen_buffers(model)
    for part in (*reversed(inner), model):
        for parameter in part.parameters() if stored else ():
            if parameter.dtype != torch.float32:
                parameter.data = parameter.data.float()
        yield part


def _widen_buffers(model: PreTrainedModel) -> None:
    """Gives the model the buffers and the configuration that it has in fp32.

    Those that a model computes for itself, as Gemma its scale of embeddings, are computed anew: they were rounded.
    """
    with init_empty_weights(include_buffers=False):
        exact = dict(type(model)(model.config).named_buffers())
    for name, buffer in list(model.named_buffers()):
        if buffer.dtype != exact[name].dtype:
            owner, _, last = name.rpartition(".")
            module = model.get_submodule(owner)
            kept = last not in module._non_persistent_buffers_set
            setattr(module, last, buffer.to(exact[name].dtype) if kept else exact[name])
    for config in (model.config, model.config.get_text_config()):
        config.dtype = torch.float32


def freeze(model: nn.Module, patterns: list[str], name: str) -> None:
    """Takes the parameters out of training whose names match a pattern; a tied one matches under each of its names.

    Raises SettingsError where a pattern matches nothing or nothing is left to train. name: the model's, for people.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for pattern in patterns:
        matching = fnmatch.filter(parameters, pattern)
        if not matching:
            nearest = difflib.get_close_matches(pattern.replace("*", ""), parameters, n=3, cutoff=0)
            raise SettingsError(
                f"model.freeze has '{pattern}', which matches no parameter of {name}; near it are {', '.join(nearest)}"
            )
        for match in matching:
            parameters[match].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise SettingsError(f"model.freeze freezes all parameters of {name}; leave some to train")


def parameter_counts(model: nn.Module) -> dict[str, int]:
    """{"trainable", "all"}: parameters of a model."""
    counts = {"trainable": 0, "all": 0}
    for parameter in model.parameters():
        number = element_count(parameter)
        counts["all"] += number
        counts["trainable"] += number if parameter.requires_grad else 0
    return counts


def element_count(parameter: nn.Parameter) -> int:
    """Weights in a parameter; a byte of 4-bit weights is two."""
    return parameter.numel() * (2 if type(parameter).__name__ == "Params4bit" else 1)


def trained_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters that are trained, by name."""
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters() if parameter.requires_grad}


def config_to_write(model: Any) -> Any:
    """The configuration of a model from `load_model`, with the cache of keys and values that training goes without."""
    config = copy.deepcopy(model.config)
    if model.had_cache:
        config.use_cache = True
    return config


def make_savable(model: PreTrainedModel) -> None:
    """Gives `generate` defaults that can be written: transformers refuses flags without effect once any has changed.

    Many models name a temperature or top_p and forget do_sample, which they mean. Of defaults that are unfit otherwise
    only the tokens are kept.
    """
    told = model.generation_config
    if told.do_sample is None and not _savable(told):
        told.do_sample = True
    if not _savable(told):
        model.generation_config = GenerationConfig(bos_token_id=told.bos_token_id, eos_token_id=told.eos_token_id)


def _savable(told: GenerationConfig) -> bool:
    try:
        told.validate(strict=True)
    except ValueError:
        return False
    return True


def stop_tokens(model: Any) -> set[int]:
    """The tokens that end an answer."""
    ends = model.generation_config.eos_token_id
    return set(ends if isinstance(ends, list) else [ends]) - {None}


def stop_at_turn_end(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Makes `generate` stop at the token that ends a turn in the chat template, which may be new to a base model."""
    known = model.generation_config.eos_token_id
    ends = {turn_end(tokenizer), tokenizer.eos_token_id, *(known if isinstance(known, list) else [known])} - {None}
    model.generation_config.eos_token_id = sorted(ends)
