"""Introductions as sidecars make them."""

from __future__ import annotations

from collections.abc import Mapping

from sidecar.control.subjects.records import Identifier, Introduction, Offered, Record
from sidecar.control.subjects.store import SubjectStore

CORP = "https://corp.example"
SOCIAL = "https://social.example"


def sub(value: str, issuer: str = CORP) -> Identifier:
    return Identifier("subject", issuer, value)


def email(value: str) -> Identifier:
    return Identifier("email", "", value)


def account(value: str) -> Identifier:
    return Identifier("account", "", value)


def device(value: str) -> Identifier:
    return Identifier("device", "", value)


def caller(
    primary: Identifier | str,
    *others: Identifier,
    pool: str = "shop",
    visitor: str = "",
    merge: bool = False,
    remembered: tuple[Identifier, ...] = (),
    attributes: Mapping[str, Offered] | None = None,
) -> Introduction:
    primary = sub(primary) if isinstance(primary, str) else primary
    return Introduction(pool, primary, others, remembered, visitor, merge, dict(attributes or {}))


def guest(visitor: str, pool: str = "shop") -> Introduction:
    return Introduction(pool, Identifier("visitor", "", visitor))


async def known(subjects: SubjectStore, introduction: Introduction) -> Record:
    return await subjects.resolve(introduction, "edge-1")
