"""Trackers: TensorBoard, Weights & Biases and MLflow show a run besides its folder.

metrics.jsonl is the truth, and a tracker is a copy of it. A process of its own (`sender`, `__main__`) reads the file as
it grows (`rows`) and passes whole steps on, each tracker in a thread (`feed`). A tracker says which steps it holds when
it is opened, and is sent what comes after: so a run that is killed and resumed stands there once, each step once.
"""
