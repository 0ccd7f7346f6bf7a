"""Words for what changes in what is known of callers: Segment, Enricher, ConsentPurpose,
ProfileAttribute, IdentityPolicy. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from sidecar.decide.documents import (
    ConsentPurpose,
    Enricher,
    IdentifierSource,
    IdentityPolicy,
    ProfileAttribute,
    Segment,
)
from sidecar.decide.effects_fields import Items, Members, Own, Saying, Section, Value
from sidecar.decide.effects_words import Change, Said, address, listed, plain, secret, shown


def segment_added(spec: Segment) -> Iterator[Said]:
    yield Said("neutral", f"rules may ask for it now: {_members(spec)}")


def segment_removed(spec: Segment) -> Iterator[Said]:
    yield Said("neutral", f"rules can no longer ask for it: {_members(spec)}")


def _members(spec: Segment) -> str:
    parts = [f"label {key}={value}" for key, value in sorted(spec.labels.items())]
    parts += [f"workload {each}" for each in spec.workloads]
    parts += [f"namespace {each}" for each in spec.namespaces]
    if spec.when is not None:
        parts.append(f"when {spec.when}")
    return f"callers of {listed(parts)}" if parts else "all callers"


def enricher_added(spec: Enricher) -> Iterator[Said]:
    yield Said("neutral", f"rules may read {listed(sorted(spec.type))} from {_url(spec)} now")


def enricher_removed(spec: Enricher) -> Iterator[Said]:
    yield Said("neutral", f"rules can no longer read {listed(sorted(spec.type))} from {_url(spec)}")


def _url(spec: Enricher) -> str:
    return shown(address(spec.url))


def purpose_added(spec: ConsentPurpose) -> Iterator[Said]:
    yield Said("neutral", f"customers can be asked for it now: {_title(spec)}")
    if spec.attributes:
        yield Said("wider", f"who agrees to it shows {listed(spec.attributes)} in responses")


def purpose_removed(spec: ConsentPurpose) -> Iterator[Said]:
    yield Said("neutral", f"customers can no longer be asked for it: {_title(spec)}")
    if spec.attributes:
        text = (
            f"what it alone covers is cut out of everybody's responses: {listed(spec.attributes)}"
        )
        yield Said("stricter", text)


def _title(spec: ConsentPurpose) -> str:
    return shown(next(iter(spec.words.values())).title)


def attribute_added(spec: ProfileAttribute) -> Iterator[Said]:
    yield Said("neutral", f"customers can be asked for it now, a {spec.type}")
    if spec.responses:
        yield Said("stricter", f"cut out of responses without consent: {listed(spec.responses)}")


def attribute_removed(spec: ProfileAttribute) -> Iterator[Said]:
    yield Said("neutral", f"customers can no longer be asked for it, a {spec.type}")
    if spec.responses:
        text = f"no longer cut out of responses without consent: {listed(spec.responses)}"
        yield Said("wider", text)


def identity_added(spec: IdentityPolicy) -> Iterator[Said]:
    known = listed(map(_identifier, spec.identifiers)) or "nothing more"
    yield Said(
        "check", f"customers are known again by issuer and subject, and by {known}; visitors who "
                 f"log in: {spec.anonymous}",
    )  # fmt: skip


def identity_removed(spec: IdentityPolicy) -> Iterator[Said]:
    yield Said(
        "check", "customers are no longer known again by "
                 f"{listed(map(_identifier, spec.identifiers)) or 'issuer and subject'}",
    )  # fmt: skip


def _identifier(source: IdentifierSource) -> str:
    parts = [f"claim {source.claim}"]
    if source.issuers:
        parts.append(f"of {listed(source.issuers, 'or')}")
    if source.verified_by is not None:
        parts.append(f"if {source.verified_by} is true")
    if not source.links:
        parts.append("joins nobody")
    return f"{source.type} ({', '.join(parts)})"


def _version(before: int, after: int) -> Iterator[Said]:
    if after > before:
        text = f"who agreed to version {before} is asked again: it is version {after} now"
        yield Said("stricter", text)
    else:
        yield Said("check", f"it is version {after} again; before: {before}. Who agreed to version "
                            f"{after} is not asked")  # fmt: skip


def _words(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Said]:
    gained, lost = sorted(after.keys() - before.keys()), sorted(before.keys() - after.keys())
    if gained:
        yield Said("neutral", f"people may read about it in {listed(gained)} now")
    if lost:
        yield Said("neutral", f"people can no longer read about it in {listed(lost)}")
    for language in sorted(before.keys() & after.keys()):
        was, now = before[language], after[language]
        if was != now:
            fields = [f for f in was.__struct_fields__ if getattr(was, f) != getattr(now, f)]
            yield Said("neutral", f"people read another {listed(fields)} in {shown(language)}: "
                                  f"{shown(plain(getattr(now, fields[0])))}")  # fmt: skip


def _signal(name: str, points: float) -> str:
    return f"{points:g} points"


def _signals(before: Mapping[str, float], after: Mapping[str, float]) -> Iterator[Said]:
    for name in sorted({*before, *after}):
        was, now = before.get(name, 0.0), after.get(name, 0.0)
        if (name in before) is not (name in after) or was != now:
            change: Change = "stricter" if now > was else "wider" if now < was else "neutral"
            yield Said(change, f"{shown(name)} adds {now:g} to subject.risk; before: {was:g}")


def _claim(source: Any) -> str:
    if isinstance(source, str):
        return f"claim {source}"
    parts = [f"claim {source.claim}"]
    if source.issuers:
        parts.append(f"of {listed(source.issuers, 'or')}")
    if source.verified_by is not None:
        parts.append(f"if {source.verified_by} is true")
    return " ".join(parts)


SEGMENT: Final[Mapping[str, Saying]] = {
    "labels": Members("callers need label {items} too", "callers no longer need label {items}",
                      "callers need another label: {items}", "check",
                      show=lambda _, value: plain(value)),
    "workloads": Items("workload {items} is of it too", "workload {items} is no longer of it",
                       "check", "workloads are written in another order: {items}"),
    "namespaces": Items("workloads of namespace {items} are of it too",
                        "workloads of namespace {items} are no longer of it",
                        "check", "namespaces are written in another order: {items}"),
    "when": Value("callers are of it when {after}; before: {before}", "check", absent="always"),
}  # fmt: skip

ENRICHER: Final[Mapping[str, Saying]] = {
    "url": Value("{after} is asked; before: {before}", "check", show=address),
    "method": Value("it is asked by {after}; before: {before}"),
    "parameters": Members("it is also told {items}", "it is no longer told {items}",
                          "it is told another {items}", "check",
                          show=lambda _, value: plain(value)),
    "headers": Members("it is also sent header {items}", "it is no longer sent header {items}",
                       "it is sent another header {items}", change="neutral",
                       show=lambda _, value: secret(value)),
    "type": Members("rules may also read {items}", "rules can no longer read {items}",
                    "rules read {items}", change="check", show=lambda _, value: plain(value)),
    "optional": Items("answers may lack {items} now", "answers may no longer lack {items}",
                      "check", "what answers may lack is written in another order: {items}"),
    "timeout": Value("an answer may take {after}; before: {before}"),
    "cache": Value("an answer is believed for {after}; before: {before}", "check"),
    "staleIfError": Value("an old answer is believed for {after} where no new one can be had; "
                          "before: {before}", "check"),
    "maxSize": Value("an answer may have {after}; before: {before}"),
    "ca": Value("who may vouch for the address is read from {after}; before: {before}", "check",
                absent="the system", show=secret),
}  # fmt: skip

PURPOSE: Final[Mapping[str, Saying]] = {
    "words": Own(_words),
    "version": Own(_version),
    "attributes": Items("who agrees to it shows {items} in responses too",
                        "who agrees to it no longer shows {items} in responses",
                        "more", "what it covers is written in another order: {items}"),
    "recipients": Items("people are told that {items} gets the data too",
                        "people are no longer told that {items} gets the data",
                        "check", "recipients are written in another order: {items}"),
    "legalBasis": Value("its legal basis is {after}; before: {before}", "check"),
    "maxUses": Value("one consent admits {after} requests; before: {before}", "more",
                     absent="any number of"),
    "expires": Value("one consent holds for {after}; before: {before}", "more",
                     absent="as long as it is not withdrawn"),
    "reviewEvery": Value("people are asked whether it still holds every {after}; before: {before}",
                         absent="time they like"),
}  # fmt: skip

ATTRIBUTE: Final[Mapping[str, Saying]] = {
    "attribute": Value("rules know it as {after}; before: {before}", "check",
                       absent="the name of the document"),
    "type": Value("it is a {after}; before: {before}", "check"),
    "words": Own(_words),
    "choices": Items("it may be {items} now", "it can no longer be {items}", "never",
                     "choices are offered in another order: {items}"),
    "validation.pattern": Value("it has to match {after}; before: {before}", absent="anything"),
    "validation.minLength": Value("it has at least {after} characters; before: {before}",
                                  absent="any number of"),
    "validation.maxLength": Value("it has at most {after} characters; before: {before}",
                                  absent="any number of"),
    "validation.minimum": Value("it is at least {after}; before: {before}", absent="anything"),
    "validation.maximum": Value("it is at most {after}; before: {before}", absent="anything"),
    "order": Value("it is asked for in place {after}; before: {before}"),
    "required": Value("it is asked for only where a rule asks: {after}; before: {before}"),
    "askEvery": Value("people are asked for it by the way every {after}; before: {before}"),
    "claims": Items("{items} fills it too", "{items} no longer fills it", "check",
                    "claims that fill it stand in another order: {items}", show=_claim),
    "enricher": Section("enricher {items} fills it now", "enricher {items} no longer fills it",
                        "check", show=lambda each: f"{each.name}.{each.member}"),
    "enricher.name": Value("enricher {after} fills it; before: {before}", "check"),
    "enricher.member": Value("{after} of the enricher's answer fills it; before: {before}",
                             "check"),
    "responses": Items("cut out of responses without consent, too: {items}",
                       "no longer cut out of responses without consent: {items}",
                       "less", "where it appears is written in another order: {items}"),
    "retention": Value("it is kept for {after}; before: {before}", "check",
                       absent="as long as it is not deleted"),
}  # fmt: skip

IDENTITY: Final[Mapping[str, Saying]] = {
    "identifiers": Items("customers are known again by {items}",
                         "customers are no longer known again by {items}",
                         "more", "identifiers that contradict count in another order: {items}",
                         show=_identifier),
    "anonymous": Value("what a visitor did, once they log in: {after}; before: {before}", "more",
                       order=("keep-apart", "merge")),
    "visitor.cookie": Value("visitors get the cookie {after}; before: {before}"),
    "visitor.maxAge": Value("visitors are known again for {after}; before: {before}", "check"),
    "visitor.insecureCookie": Value("visitors' cookies travel on plain HTTP: {after}; before: "
                                    "{before}", "more"),
    "risk.halfLife": Value("half of subject.risk is forgotten after {after}; before: {before}",
                           "less"),
    "risk.signals": Own(_signals),
}  # fmt: skip
