"""A control plane that does not answer is said to be that, before anything is sent."""

from __future__ import annotations

import pytest

from sidecar.errors import ControlPlaneUnreachable
from sidecar.facts.admin import AdminClient
from sidecar.facts.subjects_admin import SubjectsClient
from sidecar.wire import subject_pb2 as pb


async def test_nothing_is_sent_where_nobody_answers() -> None:
    async with AdminClient("127.0.0.1:1", timeout=30) as client:
        with pytest.raises(ControlPlaneUnreachable, match=r"answers at 127.0.0.1:1; so it was not"):
            await client.reach("so it was not")
    async with SubjectsClient("127.0.0.1:1", timeout=30) as subjects:
        with pytest.raises(ControlPlaneUnreachable, match="is --server its --listen address"):
            await subjects.erase(pb.EraseSubjectRequest())
