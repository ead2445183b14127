"""Settings that contradict each other: where texts come from, and how they become rows."""

from distrain_trainer.settings.fields import Fields


def data_contradictions(s: Fields) -> list[tuple[bool, str]]:
    """Those of where texts come from, and how they become rows."""
    data, batch = s.data, s.batch
    return [
        (
            data.name is not None and data.files is not None,
            "data.name and data.files are both set; keep one of them",
        ),
        (
            data.mix is not None and any((data.name, data.files, data.evaluation_files, data.revision, data.config)),
            "data.mix names the data sets, so data.name, data.files, data.evaluation_files, data.revision and "
            "data.config cannot be set beside it; remove them",
        ),
        (
            data.mix is not None and s.facts.holds == "words",
            f"data.mix is not for {s.task}, whose rows are parts of texts; join the files instead",
        ),
        (
            data.evaluation_files is not None and data.files is None,
            "data.evaluation_files needs data.files; set data.files, or choose data.evaluation_split",
        ),
        (
            data.evaluation_files is not None and data.evaluation_split is not None,
            "data.evaluation_files and data.evaluation_split are both set; keep one of them",
        ),
        (
            data.evaluation_split is not None and data.evaluation_split == data.train_split,
            f"data.evaluation_split and data.train_split are both {data.train_split}; evaluate on rows that are not "
            "trained on",
        ),
        (
            s.facts.labelled and data.text_column is not None and data.text_column == data.label_column,
            f"data.text_column and data.label_column are both {data.text_column}; name the column of the labels",
        ),
        (
            data.label_columns is not None and s.task != "multi-label-classification",
            f"data.label_columns is for multi-label-classification but task is {s.task}; set data.label_column to the "
            "one column, or change task",
        ),
        (
            data.label_columns is not None and data.label_column is not None,
            "data.label_column and data.label_columns are both set; keep one of them",
        ),
        (
            data.text_pair_column is not None and s.facts.target != "row",
            f"data.text_pair_column is for tasks that give a text a label but task is {s.task}; remove it or change "
            "task",
        ),
        (
            data.text_pair_column is not None and data.text_pair_column in (data.text_column, data.label_column),
            f"data.text_pair_column is {data.text_pair_column}, which is the column of the first text or of the "
            "labels too; name the column of the second text",
        ),
        (
            data.max_length is not None and batch.tokens != "auto" and data.max_length > batch.tokens,
            f"data.max_length is {data.max_length} but a micro-batch holds batch.tokens = {batch.tokens}; "
            f"raise batch.tokens to at least {data.max_length} or lower data.max_length",
        ),
        (
            s.facts.compares and batch.tokens != "auto" and s.row_tokens(data.max_length or 8) > batch.tokens,
            f"a pair of answers takes twice data.max_length = {data.max_length or 8}, but a micro-batch holds "
            f"batch.tokens = {batch.tokens}; raise batch.tokens or lower data.max_length",
        ),
        (
            s.facts.writes and batch.tokens != "auto" and s.row_tokens(data.max_length or 8) > batch.tokens,
            f"data.max_length and data.max_target_length = {data.max_target_length} are together more than a "
            f"micro-batch holds, batch.tokens = {batch.tokens}; raise batch.tokens or lower them",
        ),
        (
            not s.facts.writes and (data.target_column, data.text_prefix) != (None, None),
            "data.target_column and data.text_prefix are for sequence-to-sequence but task is "
            f"{s.task}; remove them or change task",
        ),
        (
            data.target_column is not None and data.target_column == data.text_column,
            f"data.text_column and data.target_column are both {data.target_column}; name the column of the targets",
        ),
        (
            s.facts.writes and (data.long_texts == "split" or data.stride > 0),
            "data.long_texts=split and data.stride would part a source from its target in sequence-to-sequence; choose "
            "truncate or drop, and no stride",
        ),
        (
            data.max_length is not None and data.stride >= data.max_length // 2,
            f"data.stride is {data.stride}, half of data.max_length = {data.max_length} or more; lower data.stride",
        ),
        (
            s.facts.target == "row" and data.long_texts == "split",
            f"data.long_texts=split gives one text several labels in {s.task}; choose truncate or drop",
        ),
        (
            data.stride > 0 and (data.long_texts or "split") != "split",
            f"data.stride is set but data.long_texts is {data.long_texts}; set data.long_texts to split",
        ),
        (
            data.mask_whole_words and s.task != "masked-lm",
            f"data.mask_whole_words is for masked-lm but task is {s.task}; remove it or change task",
        ),
    ]
