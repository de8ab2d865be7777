"""ID tokens (OpenID Connect Core 1.0, 2 and 3.1.3.7): the signature by a key of the issuer, then the claims.

Authlib checks both; what is too large, too deep or of another type is refused before.
"""

import json
from collections.abc import Iterable
from typing import Annotated, Any, Final

from authlib.oidc.core import CodeIDToken  # type: ignore[import-untyped]
from joserfc import jws
from joserfc.errors import ClaimError, JoseError
from joserfc.jwk import Key, import_key
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.clients.answers import json_or_none
from app.utils.exceptions import SingleSignOnRefusedException

LEEWAY: Final = 60
"""Seconds by which the clocks of the provider and of this machine may differ."""
_ALGORITHMS: Final = {
    "RSA": ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    "EC": ("ES256", "ES384", "ES512"),
}
"""Accepted algorithms by type of key: signatures with a public key alone. The client secret is no key (HS256)."""
_PARAMETERS: Final = {"RSA": ("n", "e"), "EC": ("crv", "x", "y")}
_MAX_KEYS: Final = 100
_RSA_LENGTHS: Final = range(342, 1400)
"""Characters of a modulus of 2048 bits, and of one that takes no noticeable time."""
_REGISTRY: Final = jws.JWSRegistry(
    algorithms=[name for names in _ALGORITHMS.values() for name in names],
    strict_check_header=False,  # providers add header parameters of their own, which mean nothing here
)

_Time = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0, le=1e12)]


class UnknownKeyError(Exception):
    """No key that is known has the id of the token's key."""


class _Claims(BaseModel):
    """Types of the claims that are checked."""

    model_config = ConfigDict(extra="ignore", strict=True)

    iss: str
    sub: str = Field(pattern=r"^[\x20-\x7e]{1,255}$")  # ASCII, as OpenID Connect has it
    aud: str | list[str]
    azp: str | None = None
    exp: _Time
    iat: _Time
    nbf: _Time | None = None
    nonce: str


class SigningKey:
    """One key of a JWK set. `kid` and `alg`: None where the set does not say."""

    def __init__(self, key: Key, *, kid: str | None, alg: str | None) -> None:
        self.key = key
        self.kid = kid
        self._alg = alg

    def fits(self, alg: str, kid: str | None) -> bool:
        """Return whether the key may have signed a token with this header; one without `kid` names none."""
        has_algorithm = alg in _ALGORITHMS[self.key.key_type] and self._alg in (None, alg)
        return has_algorithm and kid in (None, self.kid)


def read_keys(keys: Iterable[Any]) -> list[SigningKey]:
    """Return the keys that can sign ID tokens; others are left out (RFC 7517, 5)."""
    return [key for _, key in zip(range(_MAX_KEYS), filter(None, map(_read_key, keys)), strict=False)]


def read_id_token(
    token: str, keys: Iterable[SigningKey], *, issuer: str, client_id: str, nonce: str
) -> dict[str, Any]:
    """Return the claims of a valid token. Raises `UnknownKeyError`, `SingleSignOnRefusedException`."""
    try:
        signed = jws.extract_compact(token.encode("ascii"), registry=_REGISTRY)
        header = signed.headers()
        key = _key_for(header, keys)
        is_genuine = jws.validate_compact(signed, key.key, registry=_REGISTRY)
    except (JoseError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise _refused(f"it cannot be read ({type(error).__name__})") from None
    if not is_genuine:
        raise _refused("its signature is wrong")
    claims = json_or_none(signed.payload)
    if not isinstance(claims, dict):
        raise _refused("it holds no claims")
    try:
        _Claims.model_validate(claims)
    except ValidationError as error:
        raise _refused(f"its claim '{error.errors()[0]['loc'][0]}' is missing or has another type") from None
    options = {"iss": {"essential": True, "value": issuer}, "aud": {"essential": True, "value": client_id}}
    try:
        CodeIDToken(claims, header, options, {"nonce": nonce, "client_id": client_id}).validate(leeway=LEEWAY)
    except ClaimError as error:
        raise _refused(f"its claim '{error.claim}' is not as it must be") from None
    return claims


def _key_for(header: dict[str, Any], keys: Iterable[SigningKey]) -> SigningKey:
    alg, kid = header.get("alg"), header.get("kid")
    if not isinstance(alg, str) or not any(alg in names for names in _ALGORITHMS.values()):
        raise _refused("its algorithm is not accepted")
    if kid is not None and not isinstance(kid, str):
        raise _refused("its key id is no text")
    fitting = [key for key in keys if key.fits(alg, kid)]
    if not fitting:
        raise UnknownKeyError
    if len(fitting) > 1:  # a set of several must have ids (OpenID Connect Core 1.0, 10.1)
        raise _refused("it does not say which key has signed it")
    return fitting[0]


def _read_key(value: Any) -> SigningKey | None:
    if not isinstance(value, dict) or value.get("use", "sig") != "sig":
        return None
    key_type, kid, alg = value.get("kty"), value.get("kid"), value.get("alg")
    parameters = _PARAMETERS.get(key_type, ()) if isinstance(key_type, str) else ()
    public = {name: str(value[name]) for name in parameters if isinstance(value.get(name), str)}
    if not public or len(public) < len(parameters):
        return None
    if key_type == "RSA" and len(public["n"]) not in _RSA_LENGTHS:
        return None
    if not all(each is None or isinstance(each, str) for each in (kid, alg)):
        return None
    try:
        key = import_key({"kty": str(key_type), **public})
        json.dumps(key.as_dict(private=False))  # reads the numbers, which the import does not
    except (JoseError, ValueError, TypeError, KeyError):
        return None
    return SigningKey(key, kid=kid, alg=alg)


def _refused(problem: str) -> SingleSignOnRefusedException:
    return SingleSignOnRefusedException(f"The provider's ID token is not valid: {problem}")
