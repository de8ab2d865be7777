"""Scripts of others, of the operators' page and of its tests: as they were published, with their licences."""

import hashlib
import re
from pathlib import Path

import pytest

import app.dashboard

FOLDERS = (
    Path(app.dashboard.__file__).parent / "static" / "vendor",
    Path(__file__).parents[2] / "fixtures" / "vendor",
)


@pytest.mark.parametrize("folder", FOLDERS, ids=["page", "tests"])
def test_vendored_files_are_those_that_the_list_names(folder: Path):
    listed = re.findall(
        r"^(\S+\.(?:js|css)) +\S+@[\d.]+ .* ([0-9a-f]{64})$",
        (folder / "VERSIONS.txt").read_text(),
        re.MULTILINE,
    )
    files = {path.name: path for path in folder.iterdir() if path.suffix in (".js", ".css")}
    assert files
    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()} == dict(
        listed
    )
    for name in files:
        assert (folder / f"{name.partition('.')[0]}.LICENSE.txt").is_file(), name
