"""How and how recently a caller logged in, against what a rule asks for (RFC 9470). Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any, Final, final

import msgspec

_EARLY: Final = 60.0  # seconds that an issuer's clock may be ahead of ours


@final
class StepUp(msgspec.Struct, frozen=True):
    """What a rule asks for, all given parts: `acr` is one of these, `amr` has all of these (RFC
    8176), and `auth_time` is no more than `max_age` seconds ago."""

    acr: tuple[str, ...] = ()
    amr: tuple[str, ...] = ()
    max_age: float | None = None

    def met(self, claims: Mapping[str, Any], now: float) -> bool:
        """Whether a token with these claims shows it at this moment."""
        if self.acr and claims.get("acr") not in self.acr:
            return False
        if self.amr:
            methods = claims.get("amr")
            if not isinstance(methods, list) or not all(each in methods for each in self.amr):
                return False
        return self.max_age is None or now <= self.until(claims) < now + self.max_age + _EARLY

    def until(self, claims: Mapping[str, Any]) -> float:
        """How long it goes on being shown, in seconds since the epoch; -inf: it is not."""
        if self.max_age is None:
            return inf
        moment = claims.get("auth_time")
        if isinstance(moment, bool) or not isinstance(moment, int | float):
            return -inf
        return moment + self.max_age if abs(moment) < 2**53 else -inf


def together(asked: Sequence[StepUp]) -> StepUp | None:
    """One login that satisfies all of them; None where nothing is asked. Of `acr` what is in every
    list, or all there is where nothing is: then the issuer has to find the one that is enough."""
    if not asked:
        return None
    lists = [each.acr for each in asked if each.acr]
    every = tuple(dict.fromkeys(acr for found in lists for acr in found))
    common = tuple([acr for acr in every if all(acr in found for found in lists)])
    ages = [each.max_age for each in asked if each.max_age is not None]
    return StepUp(
        common or every,
        tuple(dict.fromkeys(amr for each in asked for amr in each.amr)),
        min(ages) if ages else None,
    )
