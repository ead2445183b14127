"""Language models: the tokens of a text are its labels, the next ones (causal-lm, chat) or hidden ones (masked-lm)."""

from distrain_trainer.metrics.metrics import LANGUAGE_METRICS
from distrain_trainer.tasks.losses import cross_entropy
from distrain_trainer.tasks.task import MetricNames, Task, likeliest

LANGUAGE = Task(
    metrics=lambda names: MetricNames(LANGUAGE_METRICS, "loss", ("loss", "perplexity", "token_accuracy")),
    head=lambda names: {},
    loss=cross_entropy,
    decide=likeliest,
)
