"""Who the customer is, what they agreed to, what is known of them: IdentityPolicy, ConsentPurpose,
ProfileAttribute."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from sidecar.decide.kinds.values import Duration, Expression, Part, Selector, Text

Claim = Annotated[
    Text, Meta(description="A claim of the token; dots lead into maps.", examples=["address.zip"])
]


class PurposeWords(Part, frozen=True):
    """What people read, in one language."""

    title: Annotated[Text, Meta(description="A few words: what they agree to.")]
    text: Annotated[Text, Meta(description="What it is about, as short as can be.")]


Count = Annotated[int, Meta(ge=1, le=1_000_000)]


class ConsentPurpose(Part, frozen=True, kw_only=True):
    """What data is used for, and who has to agree. Rules ask for it with `require.consent`, or read
    its name in `subject.consents`. Terms of service are one, too."""

    words: Annotated[
        dict[str, PurposeWords],
        Meta(
            min_length=1,
            description="By language (BCP 47), such as `en` or `pt-BR`; whose language is not "
            "there reads the first one.",
        ),
    ]
    version: Annotated[
        int,
        Meta(
            ge=1, le=1_000_000_000,
            description="Count up when its meaning changes: who agreed to an earlier version is "
            "asked again. Mending a word needs no new one.",
        ),
    ] = 1  # fmt: skip
    attributes: Annotated[
        list[Text],
        Meta(
            description="ProfileAttributes that it covers: without it they are cut out of "
            "responses."
        ),
    ] = []
    recipients: Annotated[list[Text], Meta(description="Who gets the data, for people.")] = []
    legal_basis: Annotated[
        Literal[
            "consent", "contract", "legal-obligation", "vital-interests", "public-task",
            "legitimate-interests",
        ],
        Meta(description="GDPR article 6(1), (a) to (f)."),
    ] = "consent"  # fmt: skip
    max_uses: Annotated[
        Count | None,
        Meta(
            description="How many requests one consent admits, counted over all sidecars. Left "
            "out: any number."
        ),
    ] = None
    expires: Annotated[
        Duration | None, Meta(description="How long one holds. Left out: until it is withdrawn.")
    ] = None
    review_every: Annotated[
        Duration | None,
        Meta(description="After which time people are asked whether it still holds."),
    ] = None


class Bound(Part, frozen=True):
    """A consent to one transaction: to these values of the request and to no others."""

    purpose: Annotated[Text, Meta(description="The ConsentPurpose.")]
    bind: Annotated[
        list[Expression],
        Meta(
            min_length=1,
            description="CEL expressions of what people see and agree to; they see each by the "
            "last part of its name: `request.body.amount` is `amount`.",
        ),
    ]


class AttributeWords(Part, frozen=True):
    """What people read, in one language."""

    label: Annotated[Text, Meta(description="What they are asked for.")]
    help: Annotated[Text | None, Meta(description="Why, and how it looks.")] = None
    choices: Annotated[
        dict[str, Text], Meta(description="Of a `choice`: what each value is called.")
    ] = {}


class Validation(Part, frozen=True):
    """What a value must be like, beyond its type. All given parts."""

    pattern: Annotated[Text | None, Meta(description="Of text: the whole of it matches (RE2).")] = (
        None
    )
    min_length: Annotated[
        Annotated[int, Meta(ge=1, le=10_000)] | None, Meta(description="Characters of text.")
    ] = None
    max_length: Annotated[
        Annotated[int, Meta(ge=1, le=10_000)] | None, Meta(description="Characters of text.")
    ] = None
    minimum: Annotated[float | None, Meta(description="Of numbers.")] = None
    maximum: Annotated[float | None, Meta(description="Of numbers.")] = None


class ClaimSource(Part, frozen=True):
    """A claim that fills an attribute."""

    claim: Claim
    issuers: Annotated[
        list[Text], Meta(description="Of tokens of these `iss` only. Left out: of any.")
    ] = []
    verified_by: Annotated[
        Claim | None, Meta(description="A claim that has to be true, such as `email_verified`.")
    ] = None


class EnricherSource(Part, frozen=True):
    """A member of an Enricher's answer that fills an attribute."""

    name: Annotated[Text, Meta(description="The Enricher.")]
    member: Annotated[Text, Meta(description="Of its `type`.")]


class ProfileAttribute(Part, frozen=True, kw_only=True):
    """Something that may be known of a customer. Rules ask for it with `require.profile`, or read
    it as `subject.profile.NAME`; nobody is asked for more than the route needs."""

    attribute: Annotated[
        Text | None,
        Meta(
            description="The name that rules know it by, such as `phone_number`. Left out: that of "
            "the document."
        ),
    ] = None
    type: Annotated[
        Literal["text", "email", "phone", "date", "number", "integer", "boolean", "choice"],
        Meta(description="`date` is 2026-01-31, `phone` an E.164 number such as +4930901820."),
    ] = "text"
    words: Annotated[
        dict[str, AttributeWords],
        Meta(min_length=1, description="By language (BCP 47); the first is everybody else's."),
    ]
    choices: Annotated[list[Text], Meta(description="Of a `choice`: the values it may have.")] = []
    validation: Annotated[
        Validation, Meta(description="What a value must be like, beyond its type.")
    ] = Validation()
    order: Annotated[
        int, Meta(ge=-1_000_000, le=1_000_000, description="Which is asked for first: the least.")
    ] = 0  # fmt: skip
    required: Annotated[
        bool,
        Meta(
            description="`false`: where no rule requires it, it may be asked for by the way, one "
            "at a time, and declined; then it is left alone. `true`: only where a rule asks."
        ),
    ] = True
    ask_every: Annotated[
        Duration,
        Meta(description="Of optional ones: the least time between two questions by the way."),
    ] = "7d"
    claims: Annotated[
        list[ClaimSource | Text],
        Meta(description="Claims that fill it, so that nobody is asked what is known; the first "
             "that is there."),
    ] = []  # fmt: skip
    enricher: Annotated[EnricherSource | None, Meta(description="Or what an Enricher knows.")] = (
        None
    )
    responses: Annotated[
        list[Text],
        Meta(
            description="JSONPath queries (RFC 9535): where it appears in the service's responses. "
            "There it is cut out for whom no ConsentPurpose that covers it is granted: for "
            "everybody where none covers it."
        ),
    ] = []
    retention: Annotated[
        Duration | None,
        Meta(description="How long it is kept after it was told. Left out: until it is deleted."),
    ] = None


class IdentifierSource(Part, frozen=True):
    """A claim that says who somebody is, beside issuer and subject."""

    type: Annotated[
        Text,
        Meta(
            description="What it is: `email`, `phone`, `device`, `account` or a name of your own. "
            "Equal values of one type are the same customer."
        ),
    ]
    claim: Claim
    issuers: Annotated[
        list[Text], Meta(description="Believed of tokens of these `iss` only. Left out: of any.")
    ] = []
    verified_by: Annotated[
        Claim | None,
        Meta(
            description="A claim that has to be true. For `email` and `phone` left out: "
            "`email_verified` and `phone_number_verified`."
        ),
    ] = None
    links: Annotated[
        bool,
        Meta(
            description="`false`: it is remembered and never joins two customers, as a device that "
            "several people use."
        ),
    ] = True


class Visitor(Part, frozen=True):
    """The signed cookie by which an anonymous visitor is known again, where a rule asks for it."""

    cookie: Annotated[Text, Meta(description="Its name.")] = "__Host-sidecar-visitor"
    max_age: Annotated[Duration, Meta(description="How long it lives; at most 400d.")] = "180d"
    insecure_cookie: Annotated[
        bool, Meta(description="Set it without `Secure`, on plain HTTP; for development.")
    ] = False


Points = Annotated[float, Meta(ge=0, le=100)]


class Risk(Part, frozen=True):
    """How much each signal adds to `subject.risk`, and how fast that is forgotten."""

    half_life: Annotated[
        Duration, Meta(description="After which time half of it is forgotten.")
    ] = "1d"
    signals: Annotated[
        dict[str, Points],
        Meta(
            description="Points by signal: `new-device`, `failed-proof` (a token that is bound to "
            "a key came without it), `revoked-credential` (a withdrawn one came), and the last "
            "part of the type of a Shared Signals event, such as `session-revoked`, "
            "`credential-change` or `credential-compromise`."
        ),
    ] = msgspec.field(
        default_factory=lambda: {
            "new-device": 20.0,
            "failed-proof": 30.0,
            "revoked-credential": 30.0,
            "credential-change": 20.0,
            "credential-compromise": 80.0,
        }
    )


class IdentityPolicy(Part, frozen=True, kw_only=True):
    """Which identifiers mean the same customer, for the sidecars that `selector` names. They share
    one pool of customers: what one application was told, the others know."""

    selector: Annotated[
        Selector,
        Meta(description="Labels of the sidecars it is for; `{}` is all of the namespace."),
    ] = {}
    identifiers: Annotated[
        list[IdentifierSource],
        Meta(
            description="Beside issuer and subject, which come first; in order of priority: where "
            "they contradict, the earlier one counts."
        ),
    ] = []
    anonymous: Annotated[
        Literal["merge", "keep-apart"],
        Meta(
            description="On login the history of the visitor becomes the customer's, or stays by "
            "itself: `keep-apart` for devices that several people share."
        ),
    ] = "keep-apart"
    visitor: Annotated[Visitor, Meta(description="The cookie of anonymous visitors.")] = Visitor()
    risk: Annotated[Risk, Meta(description="What raises `subject.risk`.")] = Risk()


def values_of(source: ClaimSource | str) -> ClaimSource:
    """A claim as written short, at length."""
    return ClaimSource(claim=source) if isinstance(source, str) else source
