"""The limit of open files follows the limit of connections."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from sidecar.edge.limits import Limits
from sidecar.plane.descriptors import raise_limit


@pytest.fixture(autouse=True)
def before() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def lowered(to: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (to, hard))


def test_it_is_raised_to_what_may_be_needed() -> None:
    lowered(256)
    raise_limit(Limits(connections=300, connections_told=0, upstream_connections=10))
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 510


def test_it_is_never_lowered() -> None:
    lowered(600)
    raise_limit(Limits(connections=1, connections_told=0, upstream_connections=1))
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 600


def test_what_the_system_does_not_admit_is_said(caplog: pytest.LogCaptureFixture) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        raise_limit(Limits())
        return
    raise_limit(Limits(connections=hard + 1))
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard
    assert "lower --max-connections" in caplog.text
