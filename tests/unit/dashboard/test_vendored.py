"""Scripts of others in the operators' page: as they were published, with their licences."""

import hashlib
import re
from pathlib import Path

import app.dashboard

FOLDER = Path(app.dashboard.__file__).parent / "static" / "vendor"


def test_vendored_files_are_those_that_the_list_names():
    listed = re.findall(
        r"^(\S+\.(?:js|css)) +\S+@[\d.]+ .* ([0-9a-f]{64})$",
        (FOLDER / "VERSIONS.txt").read_text(),
        re.MULTILINE,
    )
    files = {path.name: path for path in FOLDER.iterdir() if path.suffix in (".js", ".css")}
    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()} == dict(
        listed
    )
    for name in files:
        assert (FOLDER / f"{name.partition('.')[0]}.LICENSE.txt").is_file(), name
