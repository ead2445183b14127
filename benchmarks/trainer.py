"""distrain beside a bare PyTorch loop and transformers' Trainer: the same model, the same rows, on the CPU.

Part A is throughput: real tokens a second and padding. Part B is accuracy: seconds until the accuracy that Trainer has
after three epochs of the sample. Each writes a table and a plot.
"""

import argparse
import tempfile
from pathlib import Path

import accuracy
import throughput
from report import RESULTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["A", "B", "all"], default="all", help="default: all")
    parser.add_argument("--rounds", type=int, help="how often the contenders take turns (default: 3 for A, 1 for B)")
    parser.add_argument("--quick", action="store_true", help="a few steps each: shows that it works, measures nothing")
    parser.add_argument("--output", type=Path, help=f"folder for tables and plots (default: {RESULTS}; quick: none)")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        scratch = Path(folder)
        output = options.output or (scratch if options.quick else RESULTS)
        if options.part in ("A", "all"):
            throughput.measure(scratch / "A", output, options.rounds or 3, options.quick)
        if options.part in ("B", "all"):
            accuracy.measure(scratch / "B", output, options.rounds or 1, options.quick)


if __name__ == "__main__":
    main()
