"""Step 7: the same with distrain, which brings the loop: settings in distrain.yaml, and no training code.

    python examples/learn/step7_distrain.py
    python examples/learn/step7_distrain.py --strategy.kind zero2

What stands behind the name of this file is passed on to `distrain train`. The rows are the same and so is the number of
texts per step; distrain deals them by length, so that a step has less padding, in the same way for any number of
processes and any strategy.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import lesson

SETTINGS = Path(__file__).with_name("distrain.yaml")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, rows in zip(("trained.jsonl", "held_out.jsonl"), lesson.texts(), strict=True):
            (folder / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
        lesson.save_encoder(folder / "encoder")

        command = [sys.executable, "-m", "distrain_k8s.cli", "train", str(SETTINGS)]
        command += ["--model.name", str(folder / "encoder")]
        command += ["--data.files", str(folder / "trained.jsonl")]
        command += ["--data.evaluation_files", str(folder / "held_out.jsonl")]
        command += ["--output_dir", str(folder / "out"), "--processes", "2", *sys.argv[1:]]
        subprocess.run(command, check=True, stdout=sys.stderr)

        lines = [json.loads(line) for line in (folder / "out" / "metrics.jsonl").read_text().splitlines()]
        settings = json.loads((folder / "out" / "settings.json").read_text())
    steps = [line for line in lines if "loss" in line]
    (evaluation,) = [line for line in lines if "eval_accuracy" in line]
    lesson.tell(
        f"7 distrain, {settings['settings']['strategy']['kind']}",
        processes=settings["world_size"],
        seconds=sum(line["step_seconds"] for line in steps),
        loss=sum(line["loss"] for line in steps) / len(steps),
        scores={"accuracy": evaluation["eval_accuracy"], "f1": evaluation["eval_f1_macro"]},
        peak=steps[-1]["memory_bytes"],
    )


if __name__ == "__main__":
    main()
