"""Baseline of `benchmarks.accept` and `benchmarks.handout`: FastAPI and SQLAlchemy alone.

A POST selects a profile and inserts a row; a token's GET selects one row and decrypts one value.

DATABASE_URL=postgresql+psycopg://… ENCRYPTION_KEYS=id:key uvicorn benchmarks.bare_app:app
"""

import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from pydantic import BaseModel
from sqlalchemy import BigInteger, Column, MetaData, String, Table, insert, select
from sqlalchemy.ext.asyncio import create_async_engine

from app.utils.crypto import KeyRing, decode_key

metadata = MetaData()
profiles = Table("profiles", metadata, Column("profile_id", String), Column("twitter_username", String))
requests = Table(
    "bare_requests",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("session_id", String, unique=True),
    Column("profile_id", String),
    Column("account_id", String),
    Column("api_app", String),
)
credentials = Table(
    "credentials",
    MetaData(),
    Column("account_id", String),
    Column("api_app", String),
    Column("access_token", String),
)


@asynccontextmanager
async def open_engine(app: FastAPI) -> AsyncIterator[None]:
    app.state.engine = create_async_engine(os.environ["DATABASE_URL"], pool_size=20, max_overflow=0)
    key_id, _, key = os.environ["ENCRYPTION_KEYS"].partition(":")
    app.state.key_ring = KeyRing({key_id: decode_key(key)})
    yield
    await app.state.engine.dispose()


app = FastAPI(lifespan=open_engine)


class AuthorizeRequest(BaseModel):
    account_id: str
    api_app: str


@app.post("/authorize", status_code=202)
async def authorize(body: AuthorizeRequest, request: Request) -> dict[str, str]:
    session_id = str(uuid.uuid4())
    async with request.app.state.engine.begin() as connection:
        query = select(profiles.c.profile_id).where(profiles.c.twitter_username == body.account_id)
        profile_id = await connection.scalar(query)
        row = {"session_id": session_id, "profile_id": profile_id, **body.model_dump()}
        await connection.execute(insert(requests).values(row))
    return {"session_id": session_id, "profile_id": str(profile_id)}


@app.get("/accounts/{account_id}/token")
async def token(account_id: str, api_app: str, request: Request) -> dict[str, str]:
    query = select(credentials.c.access_token).where(
        credentials.c.account_id == account_id, credentials.c.api_app == api_app
    )
    async with request.app.state.engine.connect() as connection:
        sealed = await connection.scalar(query)
    place = f"credentials/{account_id}/{api_app}/access_token"
    return {"access_token": request.app.state.key_ring.decrypt(sealed, associated_data=place)}
