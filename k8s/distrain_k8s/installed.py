"""Packages are looked for before they are imported, so that a missing one is a sentence and not a stack trace."""

from importlib.util import find_spec

from distrain_k8s.errors import InstallationError


def need(*packages: str) -> None:
    """Raises InstallationError, which names all packages that are missing."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        are = "which are" if len(missing) > 1 else "which is"
        raise InstallationError(
            f"the client needs {' and '.join(missing)}, {are} not installed; run pip install --upgrade distrain"
        )
