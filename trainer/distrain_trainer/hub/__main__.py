"""The program of a `PushProcess`: pushes one model and answers with one line of JSON."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from distrain_trainer.console import say
from distrain_trainer.errors import DistrainError
from distrain_trainer.hub.upload import push_model, quieten
from distrain_trainer.launch.parent import die_with_parent
from distrain_trainer.settings.sections import Hub


def main(told: str) -> None:
    """told: JSON with the folder, the section `hub` of the settings, and the report."""
    die_with_parent()
    quieten()
    asked = json.loads(told)
    try:
        report = Path(asked["report"]) if asked["report"] else None
        answer = asdict(push_model(Path(asked["folder"]), Hub.model_validate(asked["asked"]), report, say))
    except DistrainError as error:
        answer = {"failed": str(error)}
    except Exception as error:  # whatever it is, the run's process must hear of it
        answer = {"failed": f"{type(error).__name__}: {error}".splitlines()[0]}
    print(json.dumps(answer))


if __name__ == "__main__":
    main(sys.argv[1])
