"""Who is who, as values: the rules one by one, and what holds for every sequence of callers."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.control.subjects.linking import MOST_HELD, MOST_NOTED, Holder, Plan, link
from sidecar.control.subjects.records import Identifier, Introduction
from tests.control.subjects.callers import CORP, SOCIAL, account, caller, email, guest, sub


class World:
    """The store as a few dictionaries: what `link` is asked with, and what becomes of its plans."""

    def __init__(self) -> None:
        self.holders: dict[str, Holder] = {}
        self.made = 0

    def plan(self, introduction: Introduction) -> Plan:
        found = {
            each: holder.customer
            for each in introduction.joining
            for holder in self.holders.values()
            if each in holder.identifiers
        }
        return link(introduction, found, self.holders)

    def meet(self, introduction: Introduction) -> str:
        plan = self.plan(introduction)
        customer = plan.customer
        if customer is None:
            self.made += 1
            customer = f"c{self.made}"
            self.holders[customer] = Holder(customer, float(self.made), frozenset())
        for step in plan.steps:
            own = self.holders[customer]
            held, noted, apart = own.identifiers, own.noted, own.apart
            if step.kind in ("created", "attached"):
                held |= {step.identifier}
            elif step.kind == "merged":
                other = self.holders.pop(step.other)
                held |= other.identifiers
                noted |= other.noted
                apart |= other.apart
            else:
                noted |= {(step.identifier, step.other)}
            self.holders[customer] = Holder(customer, own.created, held, apart, noted)
        assert not self.plan(introduction).steps, "what was just linked is not news"
        return customer

    def groups(self) -> set[frozenset[Identifier]]:
        return {holder.identifiers for holder in self.holders.values()}


def kinds(plan: Plan) -> list[str]:
    return [step.kind for step in plan.steps]


def test_a_caller_nobody_knows_is_a_new_customer() -> None:
    plan = link(caller("alice", email("a@x")), {}, {})
    assert plan.customer is None
    assert kinds(plan) == ["created", "attached"]


def test_equal_subjects_are_one_and_equal_e_mails_of_two_issuers_too() -> None:
    world = World()
    one = world.meet(caller("alice", email("a@x")))
    assert world.meet(caller("alice")) == one
    assert world.meet(caller(sub("4711", SOCIAL), email("a@x"))) == one
    assert world.groups() == {frozenset({sub("alice"), sub("4711", SOCIAL), email("a@x")})}


def test_two_subjects_of_one_issuer_are_two_whatever_they_share() -> None:
    world = World()
    alice = world.meet(caller("alice", email("a@x"), account("7")))
    plan = world.plan(caller("bob", email("a@x"), account("7")))
    assert (plan.customer, kinds(plan)) == (None, ["created", "conflict", "conflict"])
    assert {step.other for step in plan.steps[1:]} == {alice}
    assert "issuer" in plan.steps[1].why
    assert world.meet(caller("bob", email("a@x"), account("7"))) != alice


def test_two_subjects_of_one_issuer_are_not_joined_by_a_third() -> None:
    world = World()
    alice = world.meet(caller("alice", email("a@x")))
    bob = world.meet(caller("bob", account("7")))
    third = world.meet(caller(sub("t", SOCIAL), email("a@x"), account("7")))
    assert third == alice  # the stronger identifier decides
    assert world.plan(caller("bob")).customer == bob
    assert account("7") in world.holders[bob].identifiers


def test_the_holder_of_the_primary_survives_else_the_oldest() -> None:
    world = World()
    old = world.meet(caller(sub("o", SOCIAL), email("a@x")))
    young = world.meet(caller("y", account("7")))
    plan = world.plan(caller("y", email("a@x")))
    assert plan.customer == young
    assert [(step.kind, step.other) for step in plan.steps] == [("merged", old)]
    plan = world.plan(caller(sub("n", "https://third.example"), account("7"), email("a@x")))
    assert plan.customer == old
    assert [(step.kind, step.other) for step in plan.steps] == [("attached", ""), ("merged", young)]


def test_a_visitor_who_logs_in_stays_who_they_are() -> None:
    world = World()
    visitor = world.meet(guest("v1"))
    assert world.meet(caller("alice", visitor="v1", merge=True)) == visitor
    second = world.meet(guest("v2"))
    plan = world.plan(caller("alice", visitor="v2", merge=True))
    assert (plan.customer, plan.steps[0].other) == (visitor, second)


def test_a_visitor_who_is_somebody_is_never_merged_into_another() -> None:
    world = World()
    alice = world.meet(caller("alice", visitor="v1", merge=True))
    bob = world.meet(caller(sub("bob", SOCIAL), visitor="v1", merge=True))
    assert alice != bob
    assert world.plan(guest("v1")).customer == alice
    carol = caller("carol", visitor="v1", merge=True)
    assert world.meet(carol) not in (alice, bob)


def test_a_visitor_is_kept_apart_where_the_policy_says_so_and_that_is_written_once() -> None:
    world = World()
    visitor = world.meet(guest("v1"))
    plan = world.plan(caller("alice", visitor="v1"))
    assert kinds(plan) == ["created", "kept-apart"]
    alice = world.meet(caller("alice", visitor="v1"))
    assert world.plan(guest("v1")).customer == visitor != alice
    assert not world.plan(caller("alice", visitor="v1")).steps
    assert not world.plan(caller("alice", visitor="unknown")).steps


def test_an_anonymous_caller_brings_nothing_but_the_cookie() -> None:
    world = World()
    world.meet(caller("alice", email("a@x")))
    liar = Introduction("shop", Identifier("visitor", "", "v"), (email("a@x"), email("b@x")))
    assert kinds(world.plan(liar)) == ["created"]


def test_what_was_separated_by_hand_is_not_joined_again() -> None:
    a = Holder("a", 1.0, frozenset({sub("alice")}), frozenset({email("a@x")}))
    b = Holder("b", 2.0, frozenset({sub("s", SOCIAL), email("a@x")}), frozenset({sub("alice")}))
    found = {sub("alice"): "a", email("a@x"): "b", sub("s", SOCIAL): "b"}
    holders = {"a": a, "b": b}
    assert kinds(link(caller("alice", email("a@x")), found, holders)) == ["kept-apart"]
    # Nor from the other side, nor by something that they were not separated by.
    plan = link(caller(sub("s", SOCIAL), sub("alice")), found, holders)
    assert kinds(plan) == ["kept-apart"]
    third = caller(sub("t", "https://third.example"), sub("alice"), email("a@x"))
    assert [step.kind for step in link(third, found, holders).steps] == ["attached", "kept-apart"]
    # A detached identifier does not come back.
    assert not link(caller("alice", email("a@x")), {sub("alice"): "a"}, holders).steps


def test_customers_and_their_notes_do_not_grow_without_end() -> None:
    many = frozenset(email(f"{n}@x") for n in range(MOST_HELD - 1)) | {sub("alice")}
    full = Holder("a", 1.0, many)
    other = Holder("b", 2.0, frozenset({account("7")}))
    found = {sub("alice"): "a", account("7"): "b"}
    plan = link(caller("alice", email("new@x"), account("7")), found, {"a": full, "b": other})
    assert kinds(plan) == ["kept-apart"]
    notes = frozenset((email(str(n)), "z") for n in range(MOST_NOTED))
    noted = Holder("a", 1.0, many, frozenset(), notes)
    assert not link(caller("alice", account("7")), found, {"a": noted, "b": other}).steps


SUBJECTS = [sub(value, issuer) for issuer in (CORP, SOCIAL) for value in "abc"]
OTHERS = [email("1"), email("2"), account("1"), account("2")]
VISITORS = ["v1", "v2"]
callers = st.one_of(
    st.builds(
        lambda primary, others, visitor, merge: caller(
            primary, *others, visitor=visitor, merge=merge
        ),
        st.sampled_from(SUBJECTS),
        st.lists(st.sampled_from([*OTHERS, *SUBJECTS]), max_size=3),
        st.sampled_from(["", *VISITORS]),
        st.booleans(),
    ),
    st.sampled_from([guest(each) for each in VISITORS]),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(callers, max_size=12))
def test_whatever_comes_one_subject_is_one_customer_and_two_are_two(
    sequence: list[Introduction],
) -> None:
    world = World()
    for each in sequence:
        customer = world.meet(each)
        assert each.primary in world.holders[customer].identifiers
        held = [one for holder in world.holders.values() for one in holder.identifiers]
        assert len(held) == len(set(held)), "an identifier is one customer's"
        for holder in world.holders.values():
            issuers = [one.issuer for one in holder.identifiers if one.type == "subject"]
            assert len(issuers) == len(set(issuers)), "an issuer's two are two"


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 5),
            st.lists(st.sampled_from([email(str(n)) for n in range(4)]), max_size=2),
        ),
        max_size=8,
    ),
    st.randoms(use_true_random=False),
)
def test_without_conflicts_customers_are_the_connected_components_in_any_order(
    edges: list[tuple[int, list[Identifier]]], random: object
) -> None:
    # Each caller has an issuer of their own, so no two are told apart.
    sequence = [caller(sub("s", f"https://{n}.example"), *others) for n, others in edges]
    world = World()
    for each in sequence:
        world.meet(each)
    shuffled = World()
    random.shuffle(sequence)  # type: ignore[attr-defined]
    for each in sequence:
        shuffled.meet(each)
    assert world.groups() == shuffled.groups() == components(sequence)


def components(sequence: list[Introduction]) -> set[frozenset[Identifier]]:
    groups: list[set[Identifier]] = []
    for each in sequence:
        one = set(each.joining)
        apart = [group for group in groups if group.isdisjoint(one)]
        for group in groups:
            if not group.isdisjoint(one):
                one |= group
        groups = [*apart, one]
    return {frozenset(group) for group in groups}


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_three_devices_converge_in_any_order(order: tuple[int, ...]) -> None:
    logins = [caller("alice", visitor=f"v{n}", merge=True) for n in range(3)]
    world = World()
    for each in (*(guest(f"v{n}") for n in range(3)), *(logins[n] for n in order)):
        world.meet(each)
    assert len(world.groups()) == 1
