"""What counts is what happened in the last minute, and memory has an end."""

from app.api.http.moving_window import MovingWindow
from tests.fixtures.clocks import Clock


def test_entry_of_a_minute_ago_does_not_count():
    clock = Clock()
    window = MovingWindow(clock=clock)
    for seconds in (0, 20, 0):
        clock.now += seconds
        window.add("a")
    assert (window.count("a"), window.until_less("a")) == (3, 40)
    clock.now += 40
    assert (window.count("a"), window.until_less("a")) == (2, 20)
    clock.now += 20
    assert (window.count("a"), window.until_less("a")) == (0, 0)
    assert (window.count("b"), window.until_less("b")) == (0, 0)
    assert window.size == 0


def test_window_remembers_a_limited_number_of_recent_names():
    window = MovingWindow(max_names=10)
    for number in range(100):
        window.add(f"{number}")
        window.add("often")
    assert window.size == 10
    assert window.count("often") == 100
    assert (window.count("90"), window.count("91")) == (0, 1)
