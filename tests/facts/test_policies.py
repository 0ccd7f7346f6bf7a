"""Documents from files: adopted whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from sidecar.decide.documents import Document
from sidecar.errors import DocumentsInvalid
from sidecar.facts.policies import FilePolicies

POLICY = """
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: p, namespace: NS}
spec: {rules: [{name: a}]}
"""


class Adopted:
    def __init__(self) -> None:
        self.seen: list[list[str]] = []

    async def __call__(self, documents: Sequence[Document]) -> None:
        self.seen.append([document.ref for document in documents])


def policies(folder: Path, adopt: Adopted) -> FilePolicies:
    return FilePolicies(folder, "default", adopt)


async def test_a_change_is_adopted_and_a_mistake_is_not(tmp_path: Path) -> None:
    adopted = Adopted()
    (tmp_path / "a.yaml").write_text(POLICY.replace("NS", "default"))
    found = policies(tmp_path, adopted)
    await found.start()
    await found.reload(only_if_changed=True)
    assert adopted.seen == [["AccessPolicy/default/p"]]
    (tmp_path / "b.yaml").write_text(POLICY.replace("NS", "platform"))
    await found.reload(only_if_changed=True)
    assert adopted.seen[1:] == [["AccessPolicy/default/p", "AccessPolicy/platform/p"]]
    (tmp_path / "b.yaml").write_text("a: [")
    await found.reload(only_if_changed=True)
    assert len(adopted.seen) == 2
    assert f"{tmp_path}/b.yaml:2:1" in found.error
    assert (found.reloads, found.rejected) == (1, 1)
    await found.reload(only_if_changed=True)
    assert found.rejected == 1, "said once"
    (tmp_path / "b.yaml").unlink()
    await found.reload(only_if_changed=True)
    assert found.error == ""
    assert adopted.seen[2] == ["AccessPolicy/default/p"]


async def test_removing_everything_keeps_what_is_in_force(tmp_path: Path) -> None:
    adopted = Adopted()
    (tmp_path / "a.yaml").write_text(POLICY.replace("NS", "default"))
    found = policies(tmp_path, adopted)
    await found.start()
    (tmp_path / "a.yaml").unlink()
    await found.reload(only_if_changed=True)
    assert len(adopted.seen) == 1
    assert "no documents for namespace default: there are none" in found.error


async def test_nothing_for_this_namespace_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(POLICY.replace("NS", "other"))
    with pytest.raises(DocumentsInvalid, match="they are in other"):
        await policies(tmp_path, Adopted()).start()
