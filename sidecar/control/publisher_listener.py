"""Where people and pipelines come: how they show who they are, and what the listener shows them.

Beyond loopback both are needed, TLS and publishers, or it does not begin; unless the insecure
setting says that anybody may do everything.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from sidecar.control.certificates import ServerCertificates
from sidecar.control.credentials import Authority
from sidecar.errors import Misuse
from sidecar.facts.signing import is_loopback

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PublisherListener:
    """Without `authority` nobody has to show anything; without `certificates` it is plain text.

    `api` is where the JSON API listens besides loopback's `--http`, and what it shows there.
    `mtls` is a second HOST:PORT for who comes with a certificate: gRPC requires one of everybody
    or asks nobody, so who has a token alone could not come to the same.
    """

    authority: Authority | None = None
    certificates: ServerCertificates | None = None
    mtls: tuple[str, ServerCertificates] | None = None
    api: tuple[str, ServerCertificates | None] | None = None


def check(listen: str, publishers: PublisherListener, *, insecure_unauthenticated: bool) -> None:
    """Raises Misuse where somebody could publish who must not, or nobody could."""
    authority, tls = publishers.authority, publishers.certificates
    _check_api(publishers)
    if authority is None:
        if is_loopback(listen):
            return
        if not insecure_unauthenticated:
            raise Misuse(
                f"--listen {listen}: anybody who reaches it could publish policies; say who may "
                "with --publishers FILE, and give --publisher-tls-cert and --publisher-tls-key; or "
                "listen on 127.0.0.1, or accept it with --insecure-unauthenticated"
            )
        _log.warning("insecure_unauthenticated: anybody who reaches %s can publish", listen)
        return
    mistakes = []
    if insecure_unauthenticated:
        mistakes.append(
            "--insecure-unauthenticated: --publishers says who may publish; give one of the two"
        )
    if tls is None and not is_loopback(listen):
        mistakes.append(
            f"--listen {listen}: tokens would come in plain text; give --publisher-tls-cert and "
            "--publisher-tls-key, or listen on 127.0.0.1"
        )
    if not authority.takes_tokens and not (tls is not None and tls.asks) and not publishers.mtls:
        mistakes.append(
            "--publishers: it names no issuers, and without --publisher-client-ca nobody is asked "
            "for a certificate: nobody could show who they are"
        )
    if mistakes:
        raise Misuse(mistakes)


def _check_api(publishers: PublisherListener) -> None:
    """There is no insecure setting for it."""
    if publishers.api is None:
        return
    where, tls = publishers.api
    if is_loopback(where):
        return
    if publishers.authority is None:
        raise Misuse(
            f"--api {where}: anybody who reaches it could publish policies; say who may with "
            "--publishers FILE, or listen on 127.0.0.1"
        )
    if tls is None:
        raise Misuse(
            f"--api {where}: tokens would come in plain text; give --publisher-tls-cert and "
            "--publisher-tls-key, or listen on 127.0.0.1"
        )
