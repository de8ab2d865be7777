"""Everything the sandbox's servers share, in one object."""

import asyncio
from dataclasses import dataclass, field
from typing import Annotated, cast

from fastapi import Depends, Request

from sandbox.browsers import Browsers
from sandbox.config import SandboxInfo
from sandbox.faults import FaultBook
from sandbox.oauth import OAuthState
from sandbox.oauth1 import OAuth1State
from sandbox.state import Profiles, SandboxSettings, Sessions
from sandbox.traffic import Traffic


@dataclass(slots=True)
class SandboxState:
    """The state behind all servers of one sandbox; `stopping` releases everything that hangs on purpose."""

    info: SandboxInfo
    gologin_token: str
    proxy_secret: str
    profiles: Profiles
    sessions: Sessions
    oauth: OAuthState
    oauth1: OAuth1State
    plainbook: OAuthState
    browsers: Browsers
    faults: FaultBook = field(default_factory=FaultBook)
    traffic: Traffic = field(default_factory=Traffic)
    settings: SandboxSettings = field(default_factory=SandboxSettings)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)


async def _sandbox_state(request: Request) -> SandboxState:
    return cast(SandboxState, request.app.state.sandbox)


StateDep = Annotated[SandboxState, Depends(_sandbox_state)]
