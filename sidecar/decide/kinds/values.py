"""What documents are made of: names, durations, rates, selectors, where a secret is."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]
ALGORITHMS: Final[tuple[Algorithm, ...]] = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip

Name = Annotated[str, Meta(min_length=1, max_length=253)]
Text = Annotated[str, Meta(min_length=1, max_length=4096)]
CEL: Final = "CEL expression"
"""The title by which a field is known to hold one."""
Expression = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=16384,
        title=CEL,
        description="A CEL expression (https://cel.dev) over `request`, `token` and the rest.",
        examples=["request.params.id == token.sub", "token.?tier.orValue('none')"],
    ),
]
Duration = Annotated[
    str,
    Meta(
        pattern=r"\A[0-9]{1,9}(ms|s|m|h|d)\Z",  # as _DURATION
        title="duration",
        examples=["500ms", "30s", "5m", "1h", "2d"],
    ),
]
Rate = Annotated[
    str,
    Meta(
        pattern=r"\A[1-9][0-9]{0,8}/(s|m|h|d)\Z",  # as rates.Rate
        title="rate",
        examples=["100/s", "20/m", "5/h", "1/d"],
    ),
]
Selector = dict[str, str]

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION: Final = re.compile(r"([0-9]{1,9})(ms|s|m|h|d)")


def seconds(duration: str) -> float:
    """`30s`, `5m`, `1h`, `250ms`, `2d` as seconds. Raises ValueError when it is none of these."""
    match = _DURATION.fullmatch(duration)
    if not match:
        raise ValueError(f"{duration!r} is not a duration such as 30s, 5m or 1h")
    return int(match.group(1)) * _UNITS[match.group(2)]


class Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """What every part of a document has in common: unknown fields are errors."""


class CredentialLocation(Part, frozen=True):
    """A place to look for the credential: exactly one of `header` and `cookie`."""

    header: Annotated[
        Text | None,
        Meta(description="A header; in `authorization` the Bearer scheme is expected."),
    ] = None
    cookie: Annotated[
        Text | None, Meta(description="A cookie; the Origin is checked on unsafe methods.")
    ] = None


class SecretSource(Part, frozen=True):
    """Where a secret is, beside the service: exactly one. It never travels or enters history."""

    from_file: Annotated[
        Text | None,
        Meta(description="A file below the sidecar's `--secrets` folder; read when it is used."),
    ] = None
    from_env: Annotated[
        Text | None, Meta(description="A variable of the sidecar, `SIDECAR_SECRET_...`.")
    ] = None


Size = Annotated[
    str,
    Meta(
        pattern=r"\A[0-9]{1,9}(B|KiB|MiB)\Z",  # as _SIZE
        title="size",
        examples=["512B", "64KiB", "1MiB"],
    ),
]
_SIZES: Final = {"B": 1, "KiB": 1024, "MiB": 1024 * 1024}
_SIZE: Final = re.compile(r"([0-9]{1,9})(B|KiB|MiB)")


def size(text: str) -> int:
    """`512B`, `64KiB`, `1MiB` as bytes. Raises ValueError when it is none of these."""
    match = _SIZE.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is not a size such as 64KiB or 1MiB")
    return int(match.group(1)) * _SIZES[match.group(2)]
