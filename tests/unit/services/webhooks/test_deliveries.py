"""When a delivery is tried again."""

import pytest

from app.config import Settings
from app.services.webhooks.deliveries import next_wait

WAITS = Settings.model_fields["webhook_retry_waits"].default


def test_a_delivery_is_tried_for_about_a_day_and_then_no_more():
    waits = [next_wait(WAITS, attempts, None) for attempts in range(1, len(WAITS) + 1)]
    assert all(0.8 * wanted <= wait <= 1.2 * wanted for wait, wanted in zip(waits, WAITS, strict=True))
    assert 0.9 < sum(WAITS) / 86_400 < 1.1
    assert next_wait(WAITS, len(WAITS) + 1, 5) is None


@pytest.mark.parametrize(
    ("asked", "least", "most"), [(None, 4, 6), (-5, 4, 6), (1, 4, 6), (60, 60, 60), (1e9, 3600, 3600)]
)
def test_an_endpoint_may_ask_for_more_time_within_bounds(asked: float | None, least: float, most: float):
    wait = next_wait(WAITS, 1, asked)
    assert wait is not None
    assert least <= wait <= most
