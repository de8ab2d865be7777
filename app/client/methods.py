"""Descriptors that turn a call, written once, into a typed method of both clients."""

from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from .exchange import Flow
from .reading import Pages, Stream

P = ParamSpec("P")
T = TypeVar("T")


class Blocking:
    """A client for threads."""


class Asynchronous:
    """A client for asyncio."""


class Call(Generic[P, T]):
    """A flow as a method: plain of `Client`, awaited of `AsyncClient`."""

    def __init__(self, flow: Callable[Concatenate[Any, P], Flow[T]]) -> None:
        self._flow = flow
        self.__doc__ = flow.__doc__

    @overload
    def __get__(self, client: None, owner: Any) -> Callable[Concatenate[Any, P], Flow[T]]: ...
    @overload
    def __get__(self, client: Blocking, owner: Any) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: Asynchronous, owner: Any) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, client: Any, owner: Any) -> Any:
        if client is None:
            return self._flow
        return lambda *args, **options: client._run(self._flow(client, *args, **options))


class Each(Generic[P, T]):
    """A source of items as a method: with `for` of `Client`, with `async for` of `AsyncClient`."""

    def __init__(self, source: "Callable[Concatenate[Any, P], Pages[T] | Stream[T]]") -> None:
        self._source = source
        self.__doc__ = source.__doc__

    @overload
    def __get__(self, client: Blocking, owner: Any) -> Callable[P, Generator[T, None, None]]: ...
    @overload
    def __get__(self, client: Asynchronous, owner: Any) -> Callable[P, AsyncGenerator[T, None]]: ...
    def __get__(self, client: Any, owner: Any) -> Any:
        if client is None:
            return self._source
        return lambda *args, **options: client._each(self._source(client, *args, **options))
