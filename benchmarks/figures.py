"""Figures of benchmarks: each with its baseline of the same run and its goal; printed as a table or as JSON."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal


@dataclass(frozen=True)
class Goal:
    """Goal of a figure's ratio to its baseline; of the figure itself when it has no baseline."""

    bound: float
    kind: Literal["at least", "at most"]

    def __str__(self) -> str:
        return f"{'≥' if self.kind == 'at least' else '≤'} {self.bound:g}"

    def is_met(self, value: float) -> bool:
        return value >= self.bound if self.kind == "at least" else value <= self.bound


def at_least(bound: float) -> Goal:
    return Goal(bound, "at least")


def at_most(bound: float) -> Goal:
    return Goal(bound, "at most")


@dataclass(frozen=True)
class Figure:
    name: str
    value: float
    unit: str
    baseline: str | None = None
    """Name of what the figure is compared with in the same run."""
    baseline_value: float | None = None
    """Baseline's value, in the same unit."""
    ratio: float | None = None
    """Ratio to the baseline: of the medians, or the median of the ratios of rounds taken in turns."""
    goal: Goal | None = None

    @property
    def is_met(self) -> bool | None:
        """Return whether the goal is met; None when there is none."""
        if self.goal is None:
            return None
        return self.goal.is_met(self.value if self.ratio is None else self.ratio)


def compared(
    name: str, value: float, unit: str, *, baseline: str, to: float, goal: Goal | None = None
) -> Figure:
    """Return a figure with its ratio to the baseline's value `to`."""
    return Figure(name, value, unit, baseline, to, value / to if to else math.inf, goal)


def to_table(figures: Sequence[Figure]) -> str:
    rows = [
        ("figure", "value", "baseline", "its value", "ratio", "goal", ""),
        *(
            (
                each.name,
                f"{_number(each.value)} {each.unit}",
                each.baseline or "",
                "" if each.baseline_value is None else _number(each.baseline_value),
                "" if each.ratio is None else f"{each.ratio:.2f}",
                "" if each.goal is None else str(each.goal),
                {None: "", True: "met", False: "NOT MET"}[each.is_met],
            )
            for each in figures
        ),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(7)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def to_json(figures: Sequence[Figure]) -> str:
    rows = [
        asdict(each) | {"goal": None if each.goal is None else str(each.goal), "is_met": each.is_met}
        for each in figures
    ]
    return json.dumps(rows, indent=2, ensure_ascii=False)


def _number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"
