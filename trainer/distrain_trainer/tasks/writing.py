"""Sequence-to-sequence: an encoder reads a text and a decoder writes another, such as its summary or translation."""

from distrain_trainer.metrics.metrics import LANGUAGE_METRICS
from distrain_trainer.metrics.rouge import written_metrics
from distrain_trainer.settings.tasks import WRITTEN
from distrain_trainer.tasks.losses import cross_entropy
from distrain_trainer.tasks.task import MetricNames, Task, likeliest

WRITING = Task(
    metrics=lambda names: MetricNames((*LANGUAGE_METRICS, *WRITTEN), "loss", ("loss", "perplexity", "rougeL")),
    head=lambda names: {},
    loss=cross_entropy,
    decide=likeliest,
    score_texts=written_metrics,
)
