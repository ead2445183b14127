"""The loss around a model: what the strategies wrap."""

import torch
from torch import nn
from transformers import PreTrainedModel

from distrain_trainer.data.loader import IGNORED

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Type that the forward pass computes in, by `precision`."""


class SummedLoss(nn.Module):
    """The model with its loss. precision: that of the forward pass; weights stay as they are."""

    def __init__(self, model: PreTrainedModel, precision: str = "fp32"):
        super().__init__()
        self.model = model
        self.dtype = AUTOCAST[precision]

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross entropy in nats, summed over the valid targets: fp32 scalar; and the detached logits.

        input_ids, attention_mask: int64 [rows, tokens]; labels: int64 [rows] or [rows, tokens], -100 for no target,
        already shifted for language models: labels[:, t] is what position t predicts.
        """
        with torch.autocast(input_ids.device.type, self.dtype, enabled=self.dtype is not None):
            logits = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        loss = nn.functional.cross_entropy(
            logits.float().flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        return loss, logits.detach()
