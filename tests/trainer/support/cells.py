"""Many small runs (cells) in one launch of worker processes, because a launch takes longer than the training in it."""

import gc
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.distributed import TCPStore

STRATEGIES = ("ddp", "zero1", "zero2", "zero3", "fsdp")
Cell = dict[str, Any]
"""`settings`: dotted names and values. `resume`: whether to continue the run in output_dir. `outcome`: a file that gets
the error message of the run, or null; without one, an error fails the launch."""


def cell(model: Path, texts: Path, output: Path, **changes: Any) -> Cell:
    settings = {
        "model.name": model,
        "data.files": texts,
        "data.evaluation_fraction": 0,
        "batch.tokens": 256,
        "batch.samples": None,
        "schedule.kind": "constant",
        "optimizer.weight_decay": 0.1,
        "checkpoint.every_minutes": "null",
        "output_dir": output,
    }
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    return {"settings": {name: str(value) for name, value in (settings | changes).items()}}


def launch(world: int, cells: Sequence[Cell], folder: Path, timeout: float = 570) -> None:
    """Trains the cells one after the other on `world` processes; fails with the logs of those that failed."""
    file = folder / f"cells-{world}.json"
    file.write_text(json.dumps(cells))
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)  # nobody takes its port between two cells
    place = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_ADDR": "localhost", "MASTER_PORT": store.port}
    place |= {"TORCHELASTIC_USE_AGENT_STORE": True}
    logs = [folder / f"cells-{world}.{rank}.log" for rank in range(world)]
    processes = []
    for rank, log in enumerate(logs):
        with log.open("w") as output:
            group = place | {"RANK": rank, "LOCAL_RANK": rank} if world > 1 else {}  # as the supervisor sets it
            environment = os.environ | {name: str(value) for name, value in group.items()}
            command = [sys.executable, __file__, str(file)]
            processes.append(subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT))
    try:
        codes = [process.wait(timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert not any(codes), "\n".join(log.read_text()[-3000:] for log, code in zip(logs, codes, strict=True) if code)


def main() -> None:
    from accelerate.state import AcceleratorState

    from distrain_trainer.__main__ import quieten_libraries
    from distrain_trainer.errors import DistrainError
    from distrain_trainer.settings.reader import read_settings
    from distrain_trainer.training.run import run

    quieten_libraries()
    for number, cell in enumerate(json.loads(Path(sys.argv[1]).read_text())):
        os.environ["TORCHELASTIC_RESTART_COUNT"] = str(number)  # each its own keys in the store
        refused = None
        try:
            asked = read_settings(None, {name: str(value) for name, value in cell["settings"].items()})
            run(asked, cell.get("resume", False))
        except DistrainError as error:
            refused = str(error)
            if "outcome" not in cell:
                raise
        if "outcome" in cell:
            Path(cell["outcome"]).write_text(json.dumps(refused))
        AcceleratorState._reset_state(reset_partial_state=True)
        gc.collect()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
