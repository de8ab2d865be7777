"""Figures of benchmarks: when a goal is met, and how the table shows it."""

import json

from benchmarks.figures import Figure, at_least, at_most, compared, to_json, to_table

SPEED = compared("speed", 150, "a second", baseline="bare", to=1000, goal=at_least(0.6))
COST = Figure("cost", 8.25, "ms", goal=at_most(14))
PLAIN = Figure("memory", 0.0, "MB")


def test_goal_is_of_the_ratio_where_there_is_a_baseline():
    assert (SPEED.ratio, SPEED.is_met, COST.is_met, PLAIN.is_met) == (0.15, False, True, None)
    assert compared("speed", 600, "a second", baseline="bare", to=1000, goal=at_least(0.6)).is_met
    assert compared("cost", 1, "ms", baseline="none", to=0, goal=at_most(2)).is_met is False


def test_table_shows_value_baseline_ratio_and_goal():
    head, *rows = to_table([SPEED, COST, PLAIN]).splitlines()
    assert head.split() == ["figure", "value", "baseline", "its", "value", "ratio", "goal"]
    assert [row.split() for row in rows] == [
        ["speed", "150", "a", "second", "bare", "1,000", "0.15", "≥", "0.6", "NOT", "MET"],
        ["cost", "8.25", "ms", "≤", "14", "met"],
        ["memory", "0", "MB"],
    ]


def test_json_has_every_field():
    speed, cost, _ = json.loads(to_json([SPEED, COST, PLAIN]))
    assert (speed["baseline"], speed["goal"], speed["is_met"]) == ("bare", "≥ 0.6", False)
    assert (cost["ratio"], cost["is_met"]) == (None, True)
