"""What rules may ask about beyond the request and its token: Segment and Enricher."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from sidecar.decide.kinds.values import (
    Duration,
    Expression,
    Part,
    SecretSource,
    Selector,
    Size,
    Text,
)


class Segment(Part, frozen=True):
    """A set of callers, by name: those for whom all given parts hold. Rules ask for it with
    `require.segments`, or read it in `source.segments` (of a workload) and `subject.segments`."""

    labels: Annotated[
        Selector,
        Meta(
            description="Labels (`metadata.labels`) of the ApiKey or TokenIssuer that vouches for "
            "the caller."
        ),
    ] = {}
    workloads: Annotated[
        list[Text],
        Meta(
            description="The client certificate is of one of these SPIFFE ids; `*` is one segment "
            "of the path, a last `**` is all that follow."
        ),
    ] = []
    namespaces: Annotated[
        list[Text], Meta(description="The workload is of one of these Kubernetes namespaces.")
    ] = []
    when: Annotated[
        Expression | None,
        Meta(
            description="A CEL expression over `token`, `subject.id`, `subject.anonymous` and "
            "`source`; if it fails, whatever asks for the segment fails."
        ),
    ] = None


FieldType = Literal["text", "number", "integer", "boolean", "time", "list", "map"]


class Enricher(Part, frozen=True, kw_only=True):
    """A look-up over HTTP whose answer rules read as `enriched.NAME`, made only when a rule that
    could still decide reads it."""

    url: Annotated[
        Text,
        Meta(
            description="An `https` (on loopback also `http`) address; `{name}` in its path stands "
            "for a parameter."
        ),
    ]
    method: Annotated[
        Literal["GET", "POST"],
        Meta(description="GET sends the other parameters in the query, POST as a JSON object."),
    ] = "GET"
    parameters: Annotated[
        dict[str, Expression],
        Meta(description="Names and the CEL expressions that give their values."),
    ] = {}
    headers: Annotated[
        dict[str, SecretSource],
        Meta(description="Request headers with secrets, such as `authorization`."),
    ] = {}
    type: Annotated[
        dict[str, FieldType],
        Meta(
            min_length=1,
            description="The members of the answer, a JSON object, that rules may read, and what "
            "they are; an answer that is otherwise counts as a failure. Others are left out.",
        ),
    ]
    optional: Annotated[
        list[Text], Meta(description="Members of `type` that an answer may lack, or have as null.")
    ] = []
    timeout: Annotated[Duration, Meta(description="For the whole look-up; 10ms to 10s.")] = "500ms"
    cache: Annotated[Duration, Meta(description="How long an answer is believed; 1s to 1h.")] = (
        "30s"
    )
    stale_if_error: Annotated[
        Duration,
        Meta(description="How long beyond that, where a new one cannot be had (RFC 5861)."),
    ] = "0s"
    max_size: Annotated[Size, Meta(description="Of an answer; at most 1MiB.")] = "64KiB"
    ca: Annotated[
        SecretSource | None,
        Meta(description="PEM: CAs that may vouch for the address, instead of the system's."),
    ] = None
