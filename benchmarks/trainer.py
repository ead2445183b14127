"""distrain beside a bare PyTorch loop and transformers' Trainer: the same model, the same rows, on the CPU.

Part A is throughput: real tokens per second and padding. Part B is accuracy: seconds until the accuracy that Trainer
reaches after three epochs of the sample. Each writes a table and a plot.
"""

import accuracy
import throughput
from report import command, folders


def main() -> None:
    parser = command(__doc__)
    parser.add_argument("--part", choices=["A", "B", "all"], default="all", help="default: all")
    parser.add_argument("--rounds", type=int, help="how often the contenders take turns (default: 3 for A, 1 for B)")
    options = parser.parse_args()

    with folders(options) as (scratch, output):
        if options.part in ("A", "all"):
            throughput.measure(scratch / "A", output, options.rounds or 3, options.quick)
        if options.part in ("B", "all"):
            accuracy.measure(scratch / "B", output, options.rounds or 1, options.quick)


if __name__ == "__main__":
    main()
