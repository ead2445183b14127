"""What several keys say together: a batch, the length of a run, an adapter, where its data is."""

from collections.abc import Callable, Mapping
from typing import Any

from distrain_trainer.convert.found import Found, shown, spelling
from distrain_trainer.convert.rules import NO_TEXT_SPLIT, Dialect
from distrain_trainer.convert.trainer_keys import GLUE
from distrain_trainer.settings.reader import allowed_values
from distrain_trainer.settings.sections import Batch

ENDINGS = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".txt")
METHODS = allowed_values("preference.method")
PAIR = "prompt, chosen and rejected"
EVALUATED = "an evaluation comes at the end of each epoch, and at the end"
SAVED = "a checkpoint comes every 15 minutes, by checkpoint.every_minutes, and at the end"


def batch(found: Found, dialect: Dialect, asked: int | None) -> None:
    """Rows, accumulation and processes become `batch.samples` and `batch.micro_batches`, which keep the rows of a step.
    asked: processes, where somebody has said it."""
    rows, accumulation, step = found.whole("rows") or dialect.rows, found.whole("accumulation"), found.whole("step")
    processes = asked or _processes(found)
    if rows is None and accumulation is None:
        return
    known = processes or 1
    if step is not None and rows is not None and accumulation is None:
        accumulation = max(1, step // (rows * known))
        if step != rows * known * accumulation:
            found.leaves(found.key("step"), step, f"it is not a multiple of {rows} rows x {known} processes")
    each = accumulation or 1
    said = f"{rows or 'the'} rows x accumulation {each} x {known} process{'es' * (known > 1)}"
    if rows is not None:
        found.sets("batch.samples", rows, found.key("rows"))
    if processes or each > 1:
        found.sets("batch.micro_batches", each * known, "accumulation x processes")
        total = f" = {rows * each * known} rows a step" if rows is not None else ""
        guessed = "" if processes else "; say --processes N if there were more"
        found.said.append(f"batch: {said}{total}: batch.micro_batches {each * known} on any number of GPUs{guessed}")
    else:
        found.said.append(
            f"batch: {said}, as many micro-batches as processes; --processes N fixes the rows of a step for any number"
        )


def _processes(found: Found) -> int | None:
    """Processes of the run over all nodes, as far as the launcher says it."""
    if (total := found.whole("processes")) is not None:
        return total
    each, nodes = found.whole("processes_per_node"), found.whole("nodes")
    return each * (nodes or 1) if each else None


def tokens(found: Found) -> None:
    """The bound on a micro-batch has to leave room for its rows at full length."""
    rows, length = (_whole(found.settings.get(name)) for name in ("batch.samples", "data.max_length"))
    room = Batch().limit
    if rows is not None and length is not None and rows * length > room:
        found.sets("batch.tokens", rows * length, "rows x length")
        found.said.append(f"batch.tokens {rows * length}: room for {rows} rows of {length} tokens")
    elif rows is not None and length is None and rows > (Batch().samples or 0):
        found.said.append(
            f"batch.tokens is {room}: {rows} rows share a micro-batch up to {room // rows} tokens each; set "
            "batch.tokens to rows x length where yours are longer"
        )


def _whole(value: object) -> int | None:
    """A number of a setting that has not been checked yet."""
    try:
        return int(float(str(value)))
    except (ValueError, OverflowError):
        return None


def length(found: Found) -> None:
    """Epochs, or steps instead of them, and the warm-up."""
    steps = found.number("max_steps")
    if steps is not None and steps > 0:
        found.sets("schedule.max_steps", steps, shown(found.key("max_steps"), steps))
        if found.part("epochs") is not None:
            found.idle.setdefault("max_steps says how long the run is", []).append(found.key("epochs"))
    elif (epochs := found.number("epochs")) is not None:
        found.sets("schedule.epochs", epochs, shown(found.key("epochs"), epochs))
    warmup, ratio = found.number("warmup_steps"), found.number("warmup_ratio")
    if warmup is not None and warmup >= 1:
        found.sets("schedule.warmup_steps", warmup, shown(found.key("warmup_steps"), warmup))
        if ratio:
            found.idle.setdefault("warmup_steps goes before it", []).append(found.key("warmup_ratio"))
    elif share := (warmup or ratio):
        found.sets("schedule.warmup_fraction", share, shown("warm-up", share))
    if found.part("length") is not None and (rows := found.number("length")) is not None and rows > 0:
        found.sets("data.max_length", rows, shown(found.key("length"), rows))


def optimizer(found: Found) -> None:
    """The two decays of Adam's moments, and where the learning rate ends."""
    first, second = found.number("beta1"), found.number("beta2")
    if first is not None or second is not None:
        betas = [0.9 if first is None else first, 0.999 if second is None else second]
        found.sets("optimizer.betas", betas, "adam_beta1 and adam_beta2")
    rate, ratio = found.settings.get("optimizer.learning_rate"), found.number("least")
    if ratio and isinstance(rate, int | float):
        found.sets("schedule.min_learning_rate", ratio * rate, shown(found.key("least"), ratio))
    further = found.part("schedule")
    names = {"min_lr": "schedule.min_learning_rate", "num_decay_steps": "schedule.decay_steps"}
    for name, value in further.items() if isinstance(further, dict) else ():
        if name in names:
            found.sets(names[name], value, shown(str(name), value))
        else:
            found.leaves(f"lr_scheduler_kwargs.{name}", value, "see the settings of the section schedule")


def cadence(found: Found) -> None:
    """When it is evaluated, when it is saved, and by what the best model is chosen."""
    for kind, setting, instead in (
        ("eval", "evaluation.every_steps", EVALUATED),
        ("save", "checkpoint.every_steps", SAVED),
    ):
        strategy, steps = spelling(found.part(f"{kind}_strategy")), found.number(f"{kind}_steps")
        if strategy in ("no", False):
            found.said.append(f"{kind}_strategy no: {instead}")
        elif steps is not None and strategy in (None, "steps", True):
            if steps == int(steps) and steps >= 1:
                found.sets(setting, steps, shown(found.key(f"{kind}_steps"), steps))
            elif steps > 0:
                found.leaves(found.key(f"{kind}_steps"), steps, f"a part of the run; write steps as {setting}")
        elif strategy == "epoch" and kind == "save":
            found.said.append(f"save_strategy epoch: {instead}")
        if (each := found.number(f"{kind}s_per_epoch")) is not None and (each > 1 or kind == "save"):
            found.leaves(found.key(f"{kind}s_per_epoch"), each, f"{instead}; {setting} counts steps")
    if (keep := found.number("keep")) is not None:
        found.sets("checkpoint.keep", max(2, int(keep)), shown(found.key("keep"), keep))
        if keep < 2:
            found.said.append("checkpoint.keep 2: the newest one and one that is known to be whole")
    if metric := found.text("metric"):
        found.sets("evaluation.metric", metric.removeprefix("eval_"), shown(found.key("metric"), metric))


def trackers(found: Found) -> None:
    """Where the run is shown."""
    asked = found.part("report_to")
    names = [part for part in str(spelling(asked)).replace(",", " ").split() if asked is not None]
    names = [name for name in names if name not in ("none", "false")]
    names += [name for name in ("wandb", "mlflow", "tensorboard") if found.switch(name)]
    for project, name in (("wandb_project", "wandb"), ("mlflow_experiment", "mlflow")):
        if found.text(project):
            names += [name]
            found.sets("tracking.project", found.text(project), found.key(project))
    known = [name for name in dict.fromkeys(names) if name in ("tensorboard", "wandb", "mlflow")]
    if other := [name for name in dict.fromkeys(names) if name not in known]:
        found.leaves(found.key("report_to"), " ".join(other), "trackers are tensorboard, wandb and mlflow")
    if known:
        found.sets("tracking.trackers", known, shown("trackers", " ".join(known)))
    if known and found.text("project") not in (None, "huggingface"):
        found.sets("tracking.project", found.text("project"), found.key("project"))


def hub(found: Found, pushes: bool) -> None:
    """The repository that the model is pushed to. pushes: whether its name alone turns that on."""
    repository = found.text("repo")
    if repository and (pushes or found.switch("push")):
        found.sets("hub.repo", repository, shown(found.key("repo"), repository))
        if found.part("private") is not None:
            found.sets("hub.private", found.part("private"), found.key("private"))
    elif found.switch("push"):
        found.leaves("push_to_hub", True, "set hub.repo to owner/name, which turns the push on")


def adapter(found: Found, default: Mapping[str, object], nested: bool) -> None:
    """An adapter, and the base in fewer bits. default: settings of an adapter where the file is silent. nested: whether
    silence means that the scales of 4 bits are quantized too."""
    kind = spelling(found.part("adapter"))
    bits = 4 if found.switch("4bit") or kind == "qlora" else 8 if found.switch("8bit") else None
    if kind in (None, False, ""):
        for name in ("rank", "alpha", "dropout", "targets", "4bit", "8bit"):
            if found.part(name) not in (None, False):
                found.leaves(found.key(name), found.part(name), "there is no adapter; set lora.rank to train one")
        return
    if kind not in (True, "lora", "qlora"):
        found.leaves(found.key("adapter"), kind, "an adapter is lora, or qlora; choose one")
        return
    for name, setting in (("rank", "lora.rank"), ("alpha", "lora.alpha"), ("dropout", "lora.dropout")):
        value = default.get(setting) if found.part(name) is None else found.number(name)
        if value is not None:
            found.sets(setting, value, found.key(name))
    targets = found.part("targets")
    if found.switch("all_linear") or spelling(targets) in ("all-linear", "all_linear"):
        found.sets("lora.target_modules", ["all-linear"], "all linear layers")
    elif targets:
        found.sets("lora.target_modules", targets, shown(found.key("targets"), targets))
    else:
        found.said.append(
            "lora.target_modules: all linear layers; name those that peft chose for this model, if others"
        )
    for name, setting in (("rslora", "lora.rank_stabilized"), ("dora", "lora.dora")):
        if found.switch(name):
            found.sets(setting, True, found.key(name))
    if bits is not None:
        found.sets("quantization.bits", bits, f"load_in_{bits}bit")
    if bits == 4 and not (found.switch("double") or (nested and found.part("double") is None)):
        found.sets("quantization.double_quantization", False, found.key("double"))


def weights(found: Found) -> None:
    """The type that weights are loaded in, which is a setting where they are frozen."""
    names = {"bfloat16": "bf16", "bf16": "bf16", "float16": "fp16", "fp16": "fp16", "float32": "fp32", "fp32": "fp32"}
    kind = names.get(str(spelling(found.part("dtype"))).removeprefix("torch."))
    if kind is None or kind == "fp32":
        return
    if "lora.rank" in found.settings and found.settings.get("precision") == kind:
        found.sets("model.dtype", kind, found.key("dtype"))
    elif found.settings.get("precision") != kind:
        found.leaves(found.key("dtype"), kind, f"weights that are trained stay fp32; precision: {kind} computes in it")


def deepspeed(found: Found) -> None:
    """A file of DeepSpeed's."""
    file = found.part("deepspeed")
    if isinstance(file, str) and file:
        found.sets("strategy.config", file, shown(found.key("deepspeed"), file))


def text_data(found: Found) -> None:
    """Data as the example scripts name it: a name on the Hub or files, their splits, and what a text is."""
    if task := found.text("glue"):
        columns = GLUE.get(task.lower())
        if columns is None:
            found.leaves(found.key("glue"), task, f"it is not a task of GLUE ({', '.join(GLUE)}); set data.name")
        else:
            _glue(found, task.lower(), *columns)
    named, files = found.text("dataset"), found.part("train_file")
    if files:
        found.sets("data.files", files, shown(found.key("train_file"), files))
        if found.part("validation_file"):
            found.sets("data.evaluation_files", found.part("validation_file"), found.key("validation_file"))
    elif named:
        found.sets("data.files" if is_local(named) else "data.name", named, shown(found.key("dataset"), named))
    split = found.text("train_split")
    if split and "[" in split:
        found.leaves(found.key("train_split"), split, NO_TEXT_SPLIT)
    elif split and split != "train":
        found.sets("data.train_split", split, found.key("train_split"))
    if split := found.text("evaluation_split"):
        found.sets("data.evaluation_split", split, found.key("evaluation_split"))
    if (percentage := found.number("percentage")) is not None:
        found.sets("data.evaluation_fraction", percentage / 100, found.key("percentage"))
    if found.switch("lines"):
        found.sets("data.text_unit", "line", "line_by_line")
    if found.switch("regression"):
        found.settings["task"] = "regression"
    if metric := found.text("metrics"):
        found.sets("evaluation.metrics", [metric], found.key("metrics"))
    if column := found.text("text_field"):
        found.settings["task"] = "causal-lm"
        found.sets("data.text_column", column, found.key("text_field"))


def _glue(found: Found, task: str, first: str, second: str | None) -> None:
    source = shown(found.key("glue"), task)
    found.sets("data.name", "nyu-mll/glue", source)
    found.sets("data.config", task, source)
    found.sets("data.text_column", first, source)
    if second:
        found.sets("data.text_pair_column", second, source)
    if task == "mnli":
        found.sets("data.evaluation_split", "validation_matched", source)
    if task == "stsb":
        found.settings["task"] = "regression"


def revision(found: Found) -> None:
    """A model's branch, tag or commit."""
    name = found.part("revision")
    if name not in (None, "main", ""):
        found.sets("model.revision", str(name), found.key("revision"))


def is_local(name: str) -> bool:
    """Whether a data set is named by a path."""
    return name.startswith(("./", "../", "/", "~")) or "*" in name or name.lower().removesuffix(".gz").endswith(ENDINGS)


def axolotl_data(found: Found) -> None:
    """The lists `datasets`, `test_datasets` and `pretraining_dataset` of axolotl."""
    method = spelling(found.part("rl"))
    found.settings["task"] = "preference" if method in METHODS else "chat"
    if method in METHODS:
        found.sets("preference.method", method, shown("rl", method))
    elif method not in (None, False, ""):
        found.leaves("rl", method, f"preference.method knows {', '.join(METHODS)}; choose one of them")
    entries = _entries(found, "datasets")
    if not entries and (entries := _entries(found, "pretraining")):
        found.settings["task"] = "causal-lm"
    if entries:
        _entry(found, entries[0])
        files = [file for entry in entries if (file := _files(entry)) is not None]
        if len(files) == len(entries):
            found.sets("data.files", [name for file in files for name in file], "datasets")
        elif len(entries) == 1:
            found.sets("data.name", entries[0]["path"], "datasets")
        else:
            parts = [name for entry in entries for name in (_files(entry) or [entry["path"]])]
            found.sets("data.mix", [f"{name}=1" for name in dict.fromkeys(parts)], "datasets")
            found.said.append("data.mix: all are read with the columns of the first")
    for entry in _entries(found, "test_datasets"):
        if files_of := _files(entry):
            found.sets("data.evaluation_files", files_of, "test_datasets")
        elif isinstance(entry.get("split"), str) and entry.get("path") == found.settings.get("data.name"):
            found.sets("data.evaluation_split", entry["split"], "test_datasets")
        else:
            found.leaves("test_datasets", entry.get("path"), "evaluate on a split of the same data set, or on files")
    held_out = found.number("validation")
    if held_out is not None and held_out >= 1:
        found.sets("evaluation.samples", held_out, shown("val_set_size", held_out))
    elif held_out is not None and held_out > 0:
        found.sets("data.evaluation_fraction", held_out, shown("val_set_size", held_out))
    template = found.text("template")
    if template and ("{" in template or "\n" in template):
        found.leaves("chat_template_jinja", template, "write it into a file and name that as chat.template")
    elif template:
        found.sets("chat.template", template, "chat_template_jinja")
    named = found.text("own_template")
    if named == "alpaca":
        found.sets("chat.template", named, "chat_template")
    elif named not in (None, "tokenizer_default", "jinja"):
        found.leaves(
            "chat_template", named, "the tokenizer's own is used; a file with another is named as chat.template"
        )
    tokens_added = found.part("tokens")
    if tokens_added and found.part("adapter"):
        found.leaves("tokens", tokens_added, "an adapter freezes embeddings; add them to a model that is trained whole")
    elif tokens_added:
        found.sets("model.added_tokens", tokens_added, "tokens")
    fsdp = found.part("fsdp")
    if isinstance(fsdp, list | str) and fsdp:
        found.sets("strategy.kind", "fsdp", "fsdp")


def _entries(found: Found, part: str) -> list[dict[str, Any]]:
    """The entries of a list of data sets; a name alone is one."""
    value = found.part(part)
    entries = value if isinstance(value, list) else [value] if value is not None else []
    taken = [{"path": entry} if isinstance(entry, str) else entry for entry in entries]
    return [entry for entry in taken if isinstance(entry, dict) and isinstance(entry.get("path"), str)]


def _files(entry: dict[str, Any]) -> list[str] | None:
    """The local files of an entry; None where it is on the Hub."""
    files = entry.get("data_files")
    if isinstance(files, str | list) and files:
        return [str(file) for file in (files if isinstance(files, list) else [files])]
    return [entry["path"]] if is_local(entry["path"]) else None


def _entry(found: Found, entry: dict[str, Any]) -> None:
    """What the first entry says of the data's columns and splits."""
    kind = entry.get("type")
    if kind in ("completion", "pretrain"):
        found.settings["task"] = "causal-lm"
        column = entry.get("field") or entry.get("text_column")
        if isinstance(column, str) and column != "text":
            found.sets("data.text_column", column, "field")
    elif isinstance(kind, str) and kind.split(".")[0] in ("chat_template", "sharegpt"):
        column = entry.get("field_messages")
        if isinstance(column, str) and column not in ("messages", "conversations"):
            found.sets("chat.messages_column", column, "field_messages")
    elif isinstance(kind, dict) and found.settings["task"] == "preference":
        for name in ("prompt", "chosen", "rejected", "completion", "label"):
            column = kind.get(f"field_{name}")
            if isinstance(column, str) and column != name:
                found.sets(f"preference.{name}_column", column, f"field_{name}")
    elif isinstance(kind, str) and found.settings["task"] == "preference":
        columns = "prompt, completion and label" if found.settings.get("preference.method") == "kto" else PAIR
        found.leaves("datasets.type", kind, f"preference reads the columns {columns}; rename them")
    elif kind not in (None, "alpaca") and found.settings["task"] == "chat":
        found.leaves(
            "datasets.type", kind, "chat reads messages, prompt and completion, or Alpaca's columns; rename them"
        )
    split = entry.get("split")
    if isinstance(split, str) and "[" in split:
        found.leaves("split", split, NO_TEXT_SPLIT)
    elif isinstance(split, str) and split != "train":
        found.sets("data.train_split", split, "split")
    for key, setting in (("name", "data.config"), ("revision", "data.revision")):
        if isinstance(entry.get(key), str):
            found.sets(setting, entry[key], key)
    if entry.get("trust_remote_code") is True:
        found.leaves(
            "trust_remote_code", True, "code that comes with a data set is not run; convert it to Parquet first"
        )


Step = Callable[[Found], None]
ALL: tuple[Step, ...] = (length, optimizer, cadence, trackers, weights, deepspeed, revision)
"""What is the same in every dialect."""
