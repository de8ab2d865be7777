"""Limits of the layout that import-linter has no contract for."""

from pathlib import Path

import app

MAX_MODULES = 15


def test_no_folder_holds_more_modules_than_a_reader_takes_in():
    root = Path(app.__file__).parent
    modules = [path for path in root.rglob("*.py") if path.name != "__init__.py"]
    sizes = {
        folder: sum(path.parent == folder for path in modules) for folder in {path.parent for path in modules}
    }
    assert root in sizes
    assert {str(folder) for folder, size in sizes.items() if size > MAX_MODULES} == set()
