"""The file of `--ssf-transmitters`: who may send security events, and of whom."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import msgspec
import yaml

from sidecar.control.events import TYPE, Transmitter
from sidecar.control.issuers import issuer_keys
from sidecar.control.revocations import FURTHEST
from sidecar.decide.documents import ALGORITHMS, Algorithm, Duration, JwksSource, Text, seconds
from sidecar.decide.nodes import bound_depth
from sidecar.decide.tokens import Issuer
from sidecar.errors import Misuse

SKEW: Final = 30.0


class SecretFile(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A secret that is read where it is used."""

    from_file: Text


class _Entry(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    issuer: Text
    audience: Text
    jwks: JwksSource | None = None
    algorithms: Annotated[list[Algorithm], msgspec.Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: list(ALGORITHMS)
    )
    subjects: list[Text] = []
    remember: Duration = "7d"
    authorization: SecretFile | None = None


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    transmitters: Annotated[list[_Entry], msgspec.Meta(min_length=1, max_length=100)]


def load(path: Path) -> dict[str, Transmitter]:
    """By issuer. Raises Misuse with every mistake; paths in it are relative to it."""
    where = f"--ssf-transmitters {path}"
    try:
        text = path.read_text("utf-8")
        bound_depth(text)
        file = msgspec.convert(yaml.load(text, Loader=yaml.CSafeLoader), _File)
    except OSError as error:
        raise Misuse(f"{where}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, msgspec.ValidationError) as error:
        raise Misuse(f"{where}: {error}") from None
    mistakes: list[str] = []
    found: dict[str, Transmitter] = {}
    for entry in file.transmitters:
        about = f"{where}: {entry.issuer}"
        if entry.issuer in found:
            mistakes.append(f"{about}: it is there twice")
        try:
            found[entry.issuer] = _transmitter(entry, path.parent)
        except ValueError as error:
            mistakes.append(f"{about}: {error}")
    if mistakes:
        raise Misuse(mistakes)
    return found


def _transmitter(entry: _Entry, folder: Path) -> Transmitter:
    keys, uri = issuer_keys(entry.issuer, entry.jwks, folder)
    remember = seconds(entry.remember)
    if not 0 < remember <= FURTHEST:
        raise ValueError("remember: up to 400d are possible")
    issuer = Issuer(
        name=entry.issuer,
        issuer=entry.issuer,
        audiences=frozenset((entry.audience,)),
        algorithms=frozenset(entry.algorithms),
        token_types=frozenset((TYPE,)),
        skew=SKEW,
        subject="sub",
        scopes="scope",
        keys=keys,
        jwks_uri=uri,
    )
    secret = ""
    if entry.authorization is not None:
        secret = _secret(folder / entry.authorization.from_file)
    return Transmitter(issuer, frozenset(entry.subjects or [entry.issuer]), remember, secret)


def _secret(path: Path) -> str:
    try:
        secret = path.read_text("ascii").strip()
    except (OSError, ValueError):
        raise ValueError(f"authorization: {path} cannot be read as text") from None
    if not secret:
        raise ValueError(f"authorization: {path} is empty, and nothing would be asked for")
    return secret
