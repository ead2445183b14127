"""Checkpoints: one format for every strategy and any number of processes, published whole or not at all.

A checkpoint is a folder: fp32 weights as from_pretrained reads them and the optimizer's tensors by parameter name,
process i writing parameters i mod world (an adapter, which peft reads from one file, is written by process 0);
`state.json`; and `manifest.json`, written last, with the size and sha256 of each file. It is written as
`tmp.<step>.<attempt>` and renamed once it is durable. No pickle anywhere.

Every function that runs on all processes says so; the others are for process 0.
"""
