"""What settings.json says of the plan, and which process works it out."""

from dataclasses import replace
from pathlib import Path

import numpy as np

import tiny
from distrain_trainer.data.plan import Plan
from distrain_trainer.data.rows import Rows
from distrain_trainer.data.sources import Origin
from distrain_trainer.data.tokens import Tokenized
from distrain_trainer.parallel.collectives import ProcessRank
from distrain_trainer.settings.model import Settings
from distrain_trainer.training.further import Further
from distrain_trainer.training.resolve import ResolvedRun
from distrain_trainer.training.results import settings_record


def test_only_process_0_works_out_the_imbalance(tmp_path: Path) -> None:
    rows = Rows(np.zeros(30, np.int32), np.arange(0, 31, 3))
    plan = Plan(rows.lengths, 42, 6, None, 4, epochs=1)
    first = ResolvedRun(
        folder=tmp_path,
        run_id="a",
        asked={},
        stored=None,
        settings=Settings(),
        auto_tokens=False,
        process=ProcessRank(0, 2, 0, 2),
        threads=1,
        model_name="a",
        model_revision=None,
        tokenizer=tiny.wordpiece(),
        data=Tokenized(rows, None, None, "0" * 64, {}, Origin("ten rows", "0" * 64)),
        weights=None,
        further=Further(),
        packing=None,
        plan=plan,
    )
    second = replace(first, process=ProcessRank(1, 2, 1, 2))
    records = [settings_record(resolved, {}) for resolved in (first, second)]
    assert [record["plan"]["imbalance"] for record in records] == [plan.imbalance(2), None]
