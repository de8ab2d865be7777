"""The typed options of calls: what the API takes, no more and no less."""

from app.api.schemas.authorization import AuthorizeRequest
from app.api.schemas.event import EventQuery
from app.client.options import AuthorizeOptions, EventFilters


def test_options_of_authorize_are_the_fields_of_its_request():
    positional = {"account_id", "api_app"}
    ignored = {"action"}
    assert set(AuthorizeOptions.__annotations__) == set(AuthorizeRequest.model_fields) - positional - ignored


def test_filters_of_events_are_those_of_the_list():
    paging = {"page", "page_size", "cursor", "sort", "order"}
    assert set(EventFilters.__annotations__) == set(EventQuery.model_fields) - paging
