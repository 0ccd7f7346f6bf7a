"""The control plane's store of customers, on the database that a Store opened.

SQLite or PostgreSQL, the same statements. Every change is one transaction, durable on return: it
counts up the customer's version, writes its events, and tells other replicas. Every method raises
StoreFailed when the database does not do its part, and NotStored for what cannot be kept.
"""

from __future__ import annotations

from sidecar.control.subjects.batches import Batches
from sidecar.control.subjects.completing import Completing
from sidecar.control.subjects.events import Events
from sidecar.control.subjects.profiles import Profiles
from sidecar.control.subjects.resolving import Resolving
from sidecar.control.subjects.retention import Retention
from sidecar.control.subjects.undoing import Undoing


class SubjectStore(Batches, Resolving, Profiles, Completing, Events, Undoing, Retention):
    """`SubjectStore(store.engine, clock)`; the Store closes it. What each part does is said there.

    `changed`, once set, is called after each commit with the ids of the customers it changed.
    """
