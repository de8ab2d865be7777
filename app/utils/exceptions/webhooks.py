"""Webhooks and their deliveries."""

from app.utils.exceptions.base import DomainException
from app.utils.exceptions.codes import ErrorCode


class WebhookNotFoundException(DomainException):
    error_code = ErrorCode.WEBHOOK_NOT_FOUND
    status_code = 404

    def __init__(self, endpoint_id: str) -> None:
        super().__init__(f"No webhook '{endpoint_id}' that this API key may see; GET /webhooks lists them")


class DeliveryNotFoundException(DomainException):
    error_code = ErrorCode.DELIVERY_NOT_FOUND
    status_code = 404

    def __init__(self, endpoint_id: str, delivery_id: int) -> None:
        super().__init__(
            f"The webhook {endpoint_id} has no delivery {delivery_id}, or its time is over; "
            f"GET /webhooks/{endpoint_id}/deliveries lists them"
        )


class WebhookUrlRefusedException(DomainException):
    """An address that must not be spoken to, now or at a delivery."""

    error_code = ErrorCode.WEBHOOK_URL_REFUSED
    status_code = 422

    def __init__(self, reason: str) -> None:
        super().__init__(f"The webhook's URL {reason}")


class TooManyWebhooksException(DomainException):
    error_code = ErrorCode.TOO_MANY_WEBHOOKS
    status_code = 409

    def __init__(self, limit: int) -> None:
        super().__init__(f"There are {limit} webhooks already; delete one, or raise WEBHOOK_MAX_ENDPOINTS")
