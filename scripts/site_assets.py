"""Write `docs/openapi.json`, and `docs/vendor/`: the scripts that show it on the site's page of the HTTP API.

They come from the package that serves `/docs` of the running service. The description is a script too, because a
browser refuses to fetch a file for a page that is opened from the disk.
"""

import shutil
from importlib.resources import as_file, files
from pathlib import Path
from typing import Final

from scripts.generated import ROOT

FOLDER: Final = ROOT / "docs" / "vendor"
_SCRIPTS: Final = ("swagger-ui.css", "swagger-ui-bundle.js")


def main(folder: Path = FOLDER) -> None:
    folder.mkdir(exist_ok=True)
    for name in _SCRIPTS:
        with as_file(files("fastapi_offline") / "static" / name) as path:
            shutil.copyfile(path, folder / name)
    description = (ROOT / "openapi.json").read_text(encoding="utf-8")
    (folder.parent / "openapi.json").write_text(description, encoding="utf-8")
    (folder / "openapi.js").write_text(f"window.openapiDocument = {description};\n", encoding="utf-8")


if __name__ == "__main__":
    main()
