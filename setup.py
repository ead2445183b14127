"""The packages of the distribution: the trainer, the client, and the chart, which is the client's data.

All else is in pyproject.toml, which cannot map one package onto a folder beside those that it finds.
"""

from setuptools import find_packages, setup

CHART = "distrain_k8s.chart"

setup(
    packages=[*find_packages("trainer"), *find_packages("k8s"), CHART],
    package_dir={
        "distrain_trainer": "trainer/distrain_trainer",
        "distrain_k8s": "k8s/distrain_k8s",
        CHART: "charts/distrain",
    },
    package_data={
        "distrain_trainer": ["py.typed"],
        "distrain_trainer.reporting": ["*.j2"],
        "distrain_k8s": ["py.typed"],
        CHART: ["**/*", "**/.*"],
    },
)
