"""AccessPolicy: rules."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from sidecar.decide.kinds.journey import Bound
from sidecar.decide.kinds.values import Duration, Expression, Part, Rate, Selector, Text


class Match(Part, frozen=True):
    """Which requests a rule is about. All given parts must match; left out is any."""

    hosts: Annotated[
        list[Text],
        Meta(description="Host names, lower case, without port; `*.example.com` is any below it."),
    ] = []
    methods: Annotated[list[Text], Meta(description="Upper-case methods; GET includes HEAD.")] = []
    paths: Annotated[
        list[Text],
        Meta(
            description="Patterns: `{x}` and `*` are one segment, `**` is zero or more. "
            "Deny and guard patterns also match with a trailing slash."
        ),
    ] = []


class StepUp(Part, frozen=True):
    """How and how recently the caller must have logged in (RFC 9470). All given parts."""

    acr: Annotated[list[Text], Meta(description="The token's `acr` is one of these.")] = []
    amr: Annotated[
        list[Text], Meta(description="The token's `amr` has all of these (RFC 8176).")
    ] = []
    max_age: Annotated[Duration | None, Meta(description="How long ago `auth_time` may be.")] = None


class Require(Part, frozen=True):
    """What the caller must bring beyond being known."""

    scopes: Annotated[list[Text], Meta(description="All of these scopes.")] = []
    issuers: Annotated[
        list[Text], Meta(description="The credential comes from one of these (`iss` values).")
    ] = []
    audiences: Annotated[
        list[Text], Meta(description="The token names one of these in `aud`.")
    ] = []
    step_up: Annotated[
        StepUp | None, Meta(description="How and how recently the caller must have logged in.")
    ] = None
    proof: Annotated[
        list[Literal["dpop", "mtls"]],
        Meta(
            description="The token is bound to a key (`dpop`, RFC 9449) or a certificate (`mtls`, "
            "RFC 8705): one of these. A bound token is always held to its proof."
        ),
    ] = []
    consent: Annotated[
        list[Bound | Text],
        Meta(
            description="The subject has consented to all of these purposes; to one transaction, "
            "where `bind` says which."
        ),
    ] = []
    profile: Annotated[
        list[Text], Meta(description="All of these attributes of the subject are known.")
    ] = []
    segments: Annotated[
        list[Text], Meta(description="The caller is in one of these segments.")
    ] = []
    workloads: Annotated[
        list[Text],
        Meta(
            description="The client certificate is of one of these SPIFFE ids; `*` is one segment "
            "of the path, a last `**` is all that follow."
        ),
    ] = []


class Redact(Part, frozen=True):
    """What is cut out of JSON responses: exactly one of `drop` and `keep`."""

    drop: Annotated[
        list[Text],
        Meta(description="JSONPath queries (RFC 9535); what they select is cut out."),
    ] = []
    keep: Annotated[
        list[Text],
        Meta(description="JSONPath queries; only what they select is left, and what holds it."),
    ] = []
    unless: Annotated[
        Expression | None,
        Meta(description="A CEL expression; only if it is true nothing is cut."),
    ] = None


class Then(Part, frozen=True):
    """What becomes of a request that the rule admitted, and of its response."""

    set_headers: Annotated[
        dict[str, Expression],
        Meta(
            description="Request headers for the service and the expressions that give their "
            "values; callers can never send these headers themselves."
        ),
    ] = {}
    remove_headers: Annotated[
        list[Text], Meta(description="Request headers that the service does not get to see.")
    ] = []
    set_response_headers: Annotated[
        dict[str, Expression],
        Meta(description="Response headers, in place of those that the service sends."),
    ] = {}
    remove_response_headers: Annotated[
        list[Text], Meta(description="Response headers that the caller does not get to see.")
    ] = []
    redact: Annotated[
        list[Redact],
        Meta(
            description="What is cut out of JSON responses. A response that cannot be inspected is "
            "withheld (502)."
        ),
    ] = []


class Limit(Part, frozen=True):
    """How often: a token bucket for each value of `per`; beyond it 429."""

    rate: Annotated[Rate, Meta(description="In the long run, such as `10/m`.")]
    burst: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)] | None,
        Meta(description="How many may come at once. Left out: a unit's worth of the rate."),
    ] = None
    per: Annotated[
        Expression | None,
        Meta(
            description="A CEL expression, such as `token.sub`: each of its values is counted by "
            "itself. Left out: all requests together."
        ),
    ] = None
    scope: Annotated[
        Literal["pod"], Meta(description="Where it is counted: all workers of one sidecar.")
    ] = "pod"


class SubjectTerms(Part, frozen=True):
    """How a rule goes about what is known of the subject."""

    stale_if_error: Annotated[
        Duration,
        Meta(
            description="For how long what is known is believed while the control plane cannot be "
            "asked; after that, 503 (RFC 5861). At most 1d."
        ),
    ] = "10s"
    cut_if_error: Annotated[
        bool,
        Meta(
            description="Where it cannot be known whether `unless` of a redaction holds: cut it "
            "out, instead of 503."
        ),
    ] = False
    visitor: Annotated[
        bool,
        Meta(
            description="Only on allow rules with `auth: optional` or `none`: an anonymous caller "
            "whom it admits gets the cookie of the IdentityPolicy, and is known by it from then on."
        ),
    ] = False


class Rule(Part, frozen=True):
    """One rule. Admitted: no deny fires, all selected guards hold and at least one allow does."""

    name: Annotated[Text, Meta(description="Unique within the policy; shown in the decision log.")]
    effect: Annotated[
        Literal["allow", "guard", "deny"],
        Meta(description="Allow rules widen, guards narrow, a deny refuses."),
    ] = "allow"
    match: Annotated[Match, Meta(description="Left out: every request.")] = Match()
    auth: Annotated[
        Literal["token", "workload", "either", "optional", "none"] | None,
        Meta(
            description="Only on allow rules; default `token`. `optional`: absent is anonymous, "
            "present and bad is 401. `none`: the credential is not looked at. `workload` and "
            "`either` take a verified client certificate."
        ),
    ] = None
    when: Annotated[
        Expression | None,
        Meta(
            description="A CEL expression. If it fails: a deny fires, a guard is selected, "
            "an allow does not match."
        ),
    ] = None
    require: Annotated[Require, Meta(description="Not on deny rules.")] = Require()
    then: Annotated[Then, Meta(description="Not on deny rules.")] = Then()
    limit: Annotated[
        Limit | None, Meta(description="How often; not on deny rules. Left out: any number.")
    ] = None
    subject: Annotated[
        SubjectTerms,
        Meta(description="How it goes about what is known of the subject. Not on deny rules."),
    ] = SubjectTerms()
    offer: Annotated[
        bool,
        Meta(
            description="Only on allow rules. `false`: nobody who is refused is ever told that "
            "this rule would be a way in."
        ),
    ] = True


class AccessPolicy(Part, frozen=True):
    """Rules for the sidecars that `selector` names."""

    rules: Annotated[list[Rule], Meta(min_length=1, description="In order.")]
    selector: Annotated[
        Selector,
        Meta(description="Labels of the sidecars it is for; `{}` is all of the namespace."),
    ] = {}
    mode: Annotated[
        Literal["enforce", "shadow"],
        Meta(
            description="`shadow`: what would be decided with these rules is logged and counted, "
            "and never enforced."
        ),
    ] = "enforce"
