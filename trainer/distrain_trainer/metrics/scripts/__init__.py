"""The metrics as scripts for `evaluate.load`, which wants one file a metric and reads its imports line by line.

What the scripts share is here: what goes in. Each script adds what comes out.
"""

import datasets
import evaluate


class LabelMetric(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """A metric of predicted and true class numbers, 0 .. classes - 1."""

    def _info(self) -> evaluate.MetricInfo:
        label = datasets.Value("int64")
        return evaluate.MetricInfo(
            description=self.__doc__ or "",
            citation="",
            inputs_description="predictions: predicted class numbers. references: true class numbers.",
            features=datasets.Features(predictions=label, references=label),
        )


class TagMetric(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """A metric of predicted and true tags of words, a list of each for each text."""

    def _info(self) -> evaluate.MetricInfo:
        tags = datasets.List(datasets.Value("string"))
        return evaluate.MetricInfo(
            description=self.__doc__ or "",
            citation="",
            inputs_description="predictions: predicted tags of each text's words. references: true ones.",
            features=datasets.Features(predictions=tags, references=tags),
        )


class LossMetric(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """A metric of token losses: `compute(losses=[...])`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__ or "",
            citation="",
            inputs_description="losses: negative log-likelihood of each target token, in nats.",
            features=datasets.Features(losses=datasets.Value("float64")),
        )
