"""The chart that comes with the client."""

from pathlib import Path

from distrain_k8s.errors import InstallationError


def chart_folder() -> Path:
    """The folder of the Helm chart: beside this module where distrain is installed, in `charts/` of a checkout."""
    here = Path(__file__).parent
    for folder in (here / "chart", here.parents[1] / "charts" / "distrain"):
        if (folder / "Chart.yaml").is_file():
            return folder
    raise InstallationError(f"the chart is missing from {here}; install distrain again")
