"""The class of an event type: each type has one, and the migration gave the rows of earlier versions the same."""

from app.models import TYPES_BY_CLASS, EventClass, EventType, class_of


def test_each_type_has_one_class():
    types = [event_type for types in TYPES_BY_CLASS.values() for event_type in types]
    assert sorted(types) == sorted(EventType)
    assert list(TYPES_BY_CLASS) == list(EventClass)


def test_type_of_an_older_version_is_lifecycle():
    assert class_of("database.restored") is EventClass.LIFECYCLE
