import time

from app.utils.loop_lag import LoopLag
from tests.fixtures.waiting import eventually


async def test_a_blocked_loop_is_seen():
    lag = LoopLag(tick=0.001)
    lag.start()
    await eventually(lambda: lag.snapshot().samples)
    blocked_until = time.monotonic() + 0.05
    while time.monotonic() < blocked_until:
        pass
    samples = lag.snapshot().samples
    await eventually(lambda: lag.snapshot().samples > samples)
    await lag.stop()
    assert lag.snapshot().max_ms >= 45


def test_meter_without_measurements_has_no_lag():
    assert LoopLag(tick=1).snapshot().max_ms == 0


async def test_a_stop_without_a_start_is_fine():
    await LoopLag(tick=1).stop()
