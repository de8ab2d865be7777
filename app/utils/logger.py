"""JSON log lines through structlog; the standard library's loggers go through the same pipe.

A line: ``{"timestamp", "level", "logger", "event", …keys, "request_id", "service", "environment"}``. Ids are bound
once with `structlog.contextvars`; a processor masks values whose key names a secret, as a last line of defence.
"""

import logging
import sys
from typing import Any, Final, TextIO

import structlog
from stamina.instrumentation import RetryDetails, set_on_retry_hooks
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, WrappedLogger

from app.utils.masking import MASK, mask_line

SERVICE_NAME: Final = "gologin-automation"

_SECRET_WORDS: Final = (
    "token", "secret", "password", "verifier", "api_key", "api-key", "authorization_code", "cookie",
)  # fmt: skip
_SECRET_HEADERS: Final = ("authorization", "proxy-authorization")
"""Whole names: of ours, `authorization` begins many that are no secret."""
_NOT_SECRET: Final = ("token_type", "token_expires_at")
_CHATTY_LOGGERS: Final = (
    "httpx",
    "httpcore",
    "oauthlib",
    "selenium",
    "urllib3",
    "websockets",
    "asyncio",
    "aiosqlite",
    "alembic",
)


def setup_logging(*, level: str, environment: str, stream: TextIO | None = None) -> None:
    """Send every log line of the process to `stream` (standard output by default) as one JSON object."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        lambda _logger, _method, event: {**event, "service": SERVICE_NAME, "environment": environment},
        _mask_secrets,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                # Never the locals of a frame: they hold tokens.
                structlog.processors.ExceptionRenderer(
                    ExceptionDictTransformer(show_locals=False, max_frames=20)
                ),
                _render,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    _quieten_libraries()
    set_on_retry_hooks([_log_retry])  # stamina's own logs the arguments of the call, which are tokens


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger whose lines carry `name` as ``logger``; call it with a constant message and keys."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def _quieten_libraries() -> None:
    """Libraries log URLs and payloads at INFO and below; uvicorn's access line is replaced by our own."""
    for name in _CHATTY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
    logging.getLogger("uvicorn.access").setLevel(logging.CRITICAL)
    logging.getLogger("pgqueuer").setLevel(
        logging.CRITICAL
    )  # of an outage it tells with every statement; we do once
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)


def _log_retry(details: RetryDetails) -> None:
    get_logger(__name__).warning(
        "call.retried",
        call=details.name,
        attempt=details.retry_num,
        wait_seconds=round(details.wait_for, 3),
        error=str(details.caused_by),
    )


def _mask_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {key: _mask(key, value) for key, value in event.items()}


def _mask(key: str, value: Any) -> Any:
    """Mask values by their names, at any depth."""
    name = key.lower()
    if name in _SECRET_HEADERS or (name not in _NOT_SECRET and any(word in name for word in _SECRET_WORDS)):
        return MASK
    if isinstance(value, dict):
        return {inner: _mask(str(inner), each) for inner, each in value.items()}
    return value


def _render(logger: WrappedLogger, method: str, event: EventDict) -> str:
    """One line of JSON. A library's text may quote a callback URL, a path an API key: masked last."""
    line = structlog.processors.JSONRenderer()(logger, method, event)
    assert isinstance(line, str)
    return mask_line(line)
