"""What settings.json says of the plan, and which process works it out."""

from pathlib import Path

import numpy as np

from distrain_trainer.data.plan import Plan
from distrain_trainer.data.sources import Origin
from distrain_trainer.data.tokens import Rows, Tokenized
from distrain_trainer.parallel.collectives import ProcessRank
from distrain_trainer.settings.model import Settings
from distrain_trainer.storage.run_folder import Claim
from distrain_trainer.training.results import settings_record


def test_only_process_0_works_out_the_imbalance(tmp_path: Path) -> None:
    rows = Rows(np.zeros(30, np.int32), np.arange(0, 31, 3))
    plan = Plan(rows.lengths, 42, 6, None, 4, epochs=1)
    data = Tokenized(rows, None, None, "0" * 64, {}, Origin("ten rows", "0" * 64))
    claimed = Claim(tmp_path, Settings(), None)
    records = [
        settings_record(claimed, Settings(), Settings(), data, plan, ProcessRank(rank, 2, rank, 2), 1, {})
        for rank in (0, 1)
    ]
    assert [record["plan"]["imbalance"] for record in records] == [plan.imbalance(2), None]
