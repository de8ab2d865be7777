"""A string enum whose members carry a description: documentation is generated from it."""

from enum import StrEnum
from typing import Self


class DescribedEnum(StrEnum):
    """Base class of enums whose members are written as `NAME = "value", "Description."`."""

    description: str

    def __new__(cls, value: str, description: str = "") -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.description = description
        return member
