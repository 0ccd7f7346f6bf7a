"""Where policy comes from: files, or a control plane with its last-known-good on disk."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from prometheus_client.core import Metric

from sidecar import __version__
from sidecar.config import Address, RunSettings
from sidecar.decide.documents import Document
from sidecar.decide.revocations import Revocation, Revocations
from sidecar.errors import StateUnusable
from sidecar.facts.policies import FilePolicies
from sidecar.facts.releases import Assignment
from sidecar.facts.signing import trust_for
from sidecar.facts.state import StateDirectory, default_state_dir
from sidecar.plane.tasks import Tasks
from sidecar.telemetry.metrics import counter, gauge

if TYPE_CHECKING:
    from sidecar.facts.discovery import DiscoveryClient
    from sidecar.facts.reporting import Totals
    from sidecar.facts.subject_stream import Hearer, SubjectStream

Adopt = Callable[[Sequence[Document], str], Awaitable[None]]
"""Makes documents, of a version or none, the enforced ones. Raises DocumentsInvalid."""
Withdraw = Callable[[Sequence[Revocation]], Awaitable[None]]
"""Refuses what was withdrawn, wherever this sidecar decides."""

_log: Final = logging.getLogger("sidecar")


class PolicySource:
    """`start` adopts what is there and goes on to follow it; `close` ends that."""

    def __init__(
        self,
        settings: RunSettings,
        adopt: Adopt,
        held: Revocations,
        withdraw: Withdraw,
        subjects: SubjectStream | None = None,
        totals: Totals | None = None,
    ) -> None:
        """`held` is where `withdraw` puts what it is given. `subjects` is what customers are asked
        about through, `totals` how decisions have fared."""
        self.policies: FilePolicies | None = None
        self.discovery: DiscoveryClient | None = None
        self._settings = settings
        self._adopt = adopt
        self._held = held
        self._withdraw = withdraw
        self._subjects = subjects
        self._totals = totals
        self._started = time.time()
        self._read = False  # the files, for the first time
        self._state: StateDirectory | None = None
        self._tasks = Tasks()

    async def start(self) -> None:
        """Raises SidecarError with what to do."""
        settings = self._settings
        if settings.policies is not None:
            self.policies = FilePolicies(settings.policies, settings.namespace, self._adopt_files)
            await self.policies.start()
            self._read = True
            self._tasks.spawn(self.policies.run())
        elif settings.control_plane is not None:
            self.discovery = self._client(settings.control_plane)
            await self.discovery.restore()
            self._tasks.spawn(self.discovery.run())

    async def reload(self) -> None:
        """SIGHUP: read the files again, once they were read for the first time."""
        if self.policies is not None and self._read:
            await self.policies.reload()

    async def close(self) -> None:
        await self._tasks.cancel()
        if self._state is not None:
            self._state.close()

    def age(self) -> float:
        """Seconds since what is enforced was last known to be the newest."""
        return (self.discovery.age(time.time()) if self.discovery is not None else 0.0) or 0.0

    def status(self) -> dict[str, Any]:
        """For inspection."""
        found: dict[str, Any] = {}
        if self.discovery is not None:
            found["control_plane"] = {
                "address": str(self._settings.control_plane),
                "connected": self.discovery.connected,
                "age_seconds": self.discovery.age(time.time()),
                "last_error": self.discovery.last_error,
            }
            found["revocations"] = {
                "held": len(self._held),
                "age_seconds": self._revocations_age(),
            }
        if self.policies is not None:
            found["policies"] = {
                "path": str(self._settings.policies),
                "error": self.policies.error,
            }
        return found

    def _revocations_age(self) -> float | None:
        client = self.discovery
        if client is None or client.revocations is None:
            return None
        return client.revocations.age(time.time(), connected=client.connected)

    def families(self) -> Iterable[Metric]:
        """For whoever scrapes."""
        if self.discovery is not None:
            client = self.discovery
            yield gauge(
                "sidecar_control_plane_connected", "Whether its stream is open.",
                float(client.connected),
            )  # fmt: skip
            yield counter("sidecar_control_plane_reconnects", "Attempts.", client.reconnects)
            yield counter("sidecar_releases_adopted", "Releases acknowledged.", client.acks)
            yield counter("sidecar_releases_refused", "Releases not adopted.", client.nacks)
            yield gauge(
                "sidecar_state_usable", "Whether the last-known-good outlives the process.",
                float(
                    self._state is not None
                    and client.saved
                    and (client.revocations is None or client.revocations.saved)
                ),
            )  # fmt: skip
            yield gauge("sidecar_revocations", "Withdrawals held.", len(self._held))
            age = self._revocations_age()
            if age is not None:
                yield gauge(
                    "sidecar_revocations_age_seconds",
                    "Since the list of withdrawals was last known to be the newest.", age,
                )  # fmt: skip
        if self.policies is not None:
            yield counter("sidecar_policy_reloads", "Changes adopted.", self.policies.reloads)
            yield counter("sidecar_policy_rejects", "Changes with errors.", self.policies.rejected)

    async def _adopt_files(self, documents: Sequence[Document]) -> None:
        await self._adopt(documents, "")

    async def _adopt_release(self, assignment: Assignment) -> None:
        await self._adopt(assignment.documents, assignment.version)

    def _client(self, control_plane: Address) -> DiscoveryClient:
        settings = self._settings
        from sidecar.facts.control_channel import channel_credentials, pem, pod_token
        from sidecar.facts.discovery import DiscoveryClient  # gRPC: 13 MiB that files do not need
        from sidecar.facts.reporting import Reporter
        from sidecar.facts.revocations import RevocationList

        trusted = pem(settings.trust) if settings.trust is not None else None
        trust = trust_for(str(control_plane), trust_pem=trusted, pinned=frozenset())
        ca, token = settings.control_plane_ca, settings.control_plane_token

        self._state = self._open_state(control_plane)  # once it is clear that it will be used
        return DiscoveryClient(
            str(control_plane),
            namespace=settings.namespace,
            labels=settings.labels,
            sidecar_id=self._state.sidecar_id() if self._state else os.urandom(16).hex(),
            trust=trust,
            adopt=self._adopt_release,
            state=self._state,
            revocations=RevocationList(self._held, self._withdraw, self._state),
            subjects=self._subjects,
            reporter=Reporter(self._totals) if self._totals is not None else None,
            build=__version__,
            started=self._started,
            credentials=None if ca is None else channel_credentials(
                ca, settings.control_plane_cert, settings.control_plane_key
            ),
            token=None if token is None else pod_token(token),
            registration=settings.registration,
        )  # fmt: skip

    def _open_state(self, control_plane: Address) -> StateDirectory | None:
        """A folder that was named must work; the default one may be missing, which is said."""
        settings = self._settings
        if settings.state is not None:
            return StateDirectory.open(settings.state)
        path = default_state_dir(
            settings.state_home, str(control_plane), settings.namespace, settings.labels
        )
        try:
            return StateDirectory.open(path)
        except StateUnusable as error:
            _log.warning("the last-known-good release will not outlive this process: %s", error)
            return None


def asks_about_customers(settings: RunSettings) -> bool:
    """Whether there is a control plane that keeps customers, and no file of subjects."""
    return settings.control_plane is not None and settings.subjects is None


def subject_stream(hearer: Hearer, namespace: str) -> SubjectStream:
    """What asks there, for whoever hears the answers."""
    from sidecar.facts.subject_stream import SubjectStream  # protobuf, that files do not need

    stream = SubjectStream(hearer, namespace)
    hearer.link = stream
    return stream
