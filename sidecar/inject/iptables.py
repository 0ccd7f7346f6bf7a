"""Runs `iptables-save` and `iptables-restore` of both families: the hands of `redirect`.

IPv6 that is on must be redirected too, or a caller would go round the sidecar by it: where that
cannot be done, nothing is called done.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sidecar.errors import RedirectFailed
from sidecar.inject import redirect
from sidecar.inject.redirect import IPV4, IPV6, Family, Redirect

TIMEOUT: Final = 30.0  # seconds for one program
IF_INET6: Final = Path("/proc/net/if_inet6")
_PLACES: Final = "/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin"
_DENIED: Final = ("permission denied", "operation not permitted", "you must be root")

Run = Callable[[Sequence[str], str], "Done"]
"""A program with its arguments, and what it is to read."""


@dataclass(frozen=True, slots=True)
class Done:
    """How a program ended."""

    code: int
    output: str
    error: str


def run(arguments: Sequence[str], text: str) -> Done:
    """Run one to its end. Raises RedirectFailed where it is not there or does not end."""
    name = arguments[0]
    path = shutil.which(name) or shutil.which(name, path=_PLACES)
    if path is None:
        raise RedirectFailed(
            f"{name} is not installed; install the package `iptables` in the image of this step"
        )
    try:
        done = subprocess.run(  # noqa: S603  (its name is ours, and no shell is between)
            [path, *arguments[1:]],
            input=text, capture_output=True, text=True, errors="replace", timeout=TIMEOUT,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise RedirectFailed(f"{name} did not end within {TIMEOUT:g} s") from None
    except OSError as error:
        raise RedirectFailed(f"{name} cannot be run: {error.strerror}") from None
    return Done(done.returncode, done.stdout, done.stderr)


def ipv6(listing: Path = IF_INET6) -> bool | None:
    """None: not in this kernel. False: it is, and no interface has an address, ::1 included."""
    try:
        return bool(listing.read_text().strip())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RedirectFailed(
            f"whether IPv6 is on cannot be told: {listing}: {error.strerror}"
        ) from None


def change(wanted: Redirect | None, *, ipv6: bool | None, run: Run = run) -> list[str]:
    """Set what is wanted, or remove all of it (None), in both families. What was done, in words.

    Raises RedirectFailed; the families before stay as they are then, and running it again goes on.
    """
    said = [_change(wanted, IPV4, run)]
    if ipv6 is None:
        return [*said, "IPv6: not in this kernel, so nothing to do"]
    try:
        said.append(_change(wanted, IPV6, run))
    except RedirectFailed as error:
        if ipv6:
            raise RedirectFailed(
                f"IPv6 is on and not redirected, so callers could go round by it: {error}; or turn "
                "IPv6 off in this pod (sysctl net.ipv6.conf.all.disable_ipv6=1)"
            ) from None
        said.append(
            f"IPv6: no interface has an address, so nothing is open; not redirected: {error}"
        )
    return said


def _change(wanted: Redirect | None, family: Family, run: Run) -> str:
    saved = _checked(family, [f"{family.program}-save", "-t", "nat"], "", run).output
    text = redirect.remove(saved) if wanted is None else redirect.install(wanted, family, saved)
    if text:
        restore = [f"{family.program}-restore", "--noflush", "--wait", "10"]
        _checked(family, restore, text, run)
    if wanted is not None:
        return f"{family.name}: inbound TCP goes to port {wanted.to}"
    return f"{family.name}: {'removed' if text else 'nothing to remove'}"


def _checked(family: Family, arguments: Sequence[str], text: str, run: Run) -> Done:
    done = run(arguments, text)
    if done.code == 0:
        return done
    why = " ".join(done.error.split()) or f"exit code {done.code}"
    if any(phrase in why.lower() for phrase in _DENIED):
        raise RedirectFailed(
            f"{arguments[0]}: {why}; this step needs to be root with the capability NET_ADMIN "
            "(and NET_RAW where iptables is the legacy one)"
        )
    raise RedirectFailed(
        f"{arguments[0]}: {why}; the kernel of the node needs nat for {family.name}, REDIRECT and "
        "the match owner"
    )
