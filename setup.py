"""The packages of the distribution: the trainer, the client, and the chart, which is the client's data.

All else is in pyproject.toml, which cannot map one package onto a folder beside those that it finds.
"""

from pathlib import Path

from setuptools import find_packages, setup

CHART = "distrain_k8s.chart"
# Each folder of the chart is named as a package, or setuptools warns of every file in it.
FOLDERS = [folder.relative_to("charts/distrain") for folder in Path("charts/distrain").rglob("*") if folder.is_dir()]

setup(
    packages=[
        *find_packages("trainer"),
        *find_packages("k8s"),
        CHART,
        *(".".join((CHART, *folder.parts)) for folder in sorted(FOLDERS)),
    ],
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
