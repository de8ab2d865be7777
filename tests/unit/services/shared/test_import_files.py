"""CSV rows come with their lines; what is no such table is refused without a quotation."""

import io

import pytest

from app.services.shared.import_files import csv_rows, decoded_lines
from app.utils.exceptions import InvalidRequestException

COLUMNS = ("name", "value")
SECRET = "s3cret-token-value"


def read(text: str, **options: bool) -> list[tuple[int, dict[str, str]]]:
    return list(csv_rows(io.StringIO(text), columns=COLUMNS, required=COLUMNS[:1], **options))


def test_row_has_the_number_of_the_line_that_it_ends_in():
    assert read('name,value\n"a\nb",1\n\nc\n') == [
        (3, {"name": "a\nb", "value": "1"}),
        (5, {"name": "c", "value": None}),
    ]


def test_byte_order_mark_is_no_part_of_the_first_column():
    lines = decoded_lines(b"\xef\xbb\xbfname\r\na\r\n")
    assert list(csv_rows(lines, columns=COLUMNS, required=["name"])) == [(2, {"name": "a"})]


@pytest.mark.parametrize("text", ["", "value\n1\n", f"{SECRET},1\n"])
def test_header_without_a_required_column_is_refused(text: str):
    with pytest.raises(InvalidRequestException) as caught:
        read(text)
    assert caught.value.message == "The first line must name columns of name, value; missing: name"


def test_unknown_columns_are_counted_where_they_are_refused():
    text = f"name,{SECRET},other\na,b,c\n"
    assert read(text) == [(2, {"name": "a", SECRET: "b", "other": "c"})]
    with pytest.raises(InvalidRequestException, match="2 of the first line's columns are unknown") as caught:
        read(text, allow_unknown_columns=False)
    assert SECRET not in caught.value.message


def test_misplaced_quote_is_refused_unless_the_reader_is_lenient():
    text = f'name\na\n"{SECRET}"x\n'
    assert read(text, strict=False) == [(2, {"name": "a"}), (3, {"name": f"{SECRET}x"})]
    with pytest.raises(InvalidRequestException, match="cannot be read after line 2: ") as caught:
        read(text)
    assert SECRET not in caught.value.message
