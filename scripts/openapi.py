"""Write `openapi.json`, the API's description that clients are generated from; `--check`: compare it instead."""

import json
import sys
from pathlib import Path

from app.config import Settings
from app.main import create_app

PATH = Path(__file__).resolve().parent.parent / "openapi.json"


def main(arguments: list[str]) -> int:
    text = described()
    if arguments != ["--check"]:
        PATH.write_text(text, encoding="utf-8")
        return 0
    if PATH.is_file() and PATH.read_text(encoding="utf-8") == text:
        return 0
    print(
        "openapi.json is not what the code says: run 'make openapi' and look at the difference",
        file=sys.stderr,
    )
    return 1


def described() -> str:
    """Describe the API with default settings: no setting changes it."""
    document = create_app(Settings.model_construct()).openapi()
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
