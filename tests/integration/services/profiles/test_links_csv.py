"""Links as CSV: a bad line is named and keeps none of the others back."""

import io
from itertools import chain, repeat

import pytest

from app.context import Context
from app.database import Database
from app.services.profiles.links_csv import export_links, import_links
from app.utils.exceptions import InvalidRequestException
from tests.fixtures.factories import new_profile

pytestmark = pytest.mark.databases("sqlite")


async def imported(context: Context, text: str):
    return await import_links(context.database, context.fleet.directory, io.StringIO(text), actor="tests")


@pytest.fixture
async def profiles(database: Database) -> list[str]:
    rows = [new_profile() for _ in range(3)]
    async with database.transaction() as db:
        db.add_all(rows)
    return [row.profile_id for row in rows]


@pytest.mark.databases("sqlite", long="postgresql")
async def test_exported_links_can_be_imported(context: Context, database: Database, profiles: list[str]):
    text = f"profile_id,twitter_username,api_app\n{profiles[0]},@Anna,AIOTT1\n{profiles[1]},berta,\n"
    report = await imported(context, text)
    assert (report.linked, report.bad_lines) == (2, [])
    out = io.StringIO()
    assert await export_links(database, out) == 2
    assert out.getvalue().splitlines() == text.replace("@Anna", "anna").splitlines()
    assert (await imported(context, out.getvalue())).linked == 2
    assert await export_links(database, io.StringIO(), everything=True) == 3


async def test_each_bad_line_is_named_and_the_good_ones_count(context: Context, profiles: list[str]):
    lines = [
        "api_app,twitter_username,profile_id",
        f",anna,{profiles[0]}",
        f",not a handle,{profiles[1]}",
        ",berta,ffffffffffffffffffffffff",
        f",anna,{profiles[1]}",
        ",clara,",
        f",dora,{profiles[2]}",
    ]
    report = await imported(context, "\n".join(lines))
    assert report.linked == 2
    assert [bad.line for bad in report.bad_lines] == [3, 4, 5, 6]
    assert [bad.reason[:24] for bad in report.bad_lines] == [
        "twitter_username must be",
        "No GoLogin profile 'ffff",
        "More than one profile be",
        "profile_id is empty",
    ]


async def test_a_file_without_the_columns_is_refused(context: Context):
    with pytest.raises(InvalidRequestException, match="missing: twitter_username"):
        await imported(context, "profile_id,account\n1,anna\n")


async def test_a_profile_whose_id_looks_like_a_formula_is_exported_as_text_and_imported(
    context: Context, database: Database
):
    ids = ["=HYPERLINK(1)", "+1", "-1", "@sum"]
    async with database.transaction() as db:
        db.add_all([new_profile(profile_id=each) for each in ids])
    cells = [f"{each},account{number}," for number, each in enumerate(ids)]
    report = await imported(context, "profile_id,twitter_username,api_app\n" + "\n".join(cells))
    assert report.bad_lines == []
    out = io.StringIO()
    assert await export_links(database, out) == len(ids)
    exported = out.getvalue().splitlines()[1:]
    assert exported == [f"'{cell}" for cell in cells]
    again = await imported(context, out.getvalue())
    assert (again.linked, again.bad_lines) == (len(ids), [])


@pytest.mark.parametrize("bad", ["x" * 200_000, "a\rb"], ids=["long", "bare-return"])
async def test_a_line_that_is_no_csv_is_named(context: Context, profiles: list[str], bad: str):
    text = f"profile_id,twitter_username\n{profiles[0]},anna\n{bad},berta\n"
    with pytest.raises(InvalidRequestException, match=r"after line 2: .*; 1 linked before it"):
        await imported(context, text)


@pytest.mark.databases("sqlite", long="postgresql")
@pytest.mark.parametrize("bad", ["a\x00b", "x" * 1000], ids=["nul", "long"])
async def test_a_profile_id_that_cannot_be_one_is_a_bad_line(context: Context, profiles: list[str], bad: str):
    text = f"profile_id,twitter_username\n{bad},anna\n{profiles[0]},berta\x00\n{profiles[1]},clara\n"
    report = await imported(context, text)
    assert [(line.line, line.reason[:21]) for line in report.bad_lines] == [
        (2, "profile_id cannot be "),
        (3, "twitter_username must"),
    ]
    assert report.linked == 1


async def test_links_are_read_no_further_than_the_first_row_too_many(context: Context, profiles: list[str]):
    rows = chain([f"{profiles[0]},anna\n"], repeat(",anna\n"))
    lines = chain(["profile_id,twitter_username\n"], rows)
    with pytest.raises(InvalidRequestException, match=r"200000 rows at most, .*; 1 linked before it"):
        await import_links(context.database, context.fleet.directory, lines, actor="tests")
