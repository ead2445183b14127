"""How the next token is chosen while a model writes."""

import argparse
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from distrain_trainer.errors import SettingsError


@dataclass(frozen=True)
class Sampling:
    """temperature: what logits are divided by before a token is drawn; 0 takes the likeliest one. top_p, top_k: drawn
    from the likeliest tokens alone, up to this probability together or of this number; 1 and 0 for all. penalty: what
    logits of tokens that are there already are divided by (multiplied, where negative). seed: of what is drawn."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    penalty: float = 1.0
    seed: int = 42

    def __post_init__(self) -> None:
        for name, holds, bounds in (
            ("temperature", 0 <= self.temperature <= 100, "between 0 and 100"),
            ("top-p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("top-k", self.top_k >= 0, "0 or more"),
            ("repetition-penalty", self.penalty > 0, "above 0"),
            ("seed", 0 <= self.seed < 2**31, "0 or more"),
        ):
            if not holds:
                raise SettingsError(f"--{name} should be {bounds}")
        if not self.temperature and (self.top_p, self.top_k) != (1.0, 0):
            raise SettingsError("--top-p and --top-k choose what is drawn from; set --temperature, such as to 1")

    @staticmethod
    def of(chosen: argparse.Namespace) -> "Sampling":
        """From the command line. Raises SettingsError."""
        return Sampling(chosen.temperature, chosen.top_p, chosen.top_k, chosen.repetition_penalty, chosen.seed)

    def begin(self, number: int) -> None:
        """Seeds what is drawn for one answer. number: its place among all, so that it does not depend on the others."""
        if self.temperature:
            torch.manual_seed(int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0]))

    @property
    def arguments(self) -> dict[str, Any]:
        """What `generate` is told."""
        drawn = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k} if self.temperature else {}
        return {"do_sample": bool(self.temperature), "repetition_penalty": self.penalty} | drawn


GREEDY = Sampling()
