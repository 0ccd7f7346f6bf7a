"""docs/cookbook.md: every recipe is without a mistake, does what its cases say, and has no rule that
no case is about."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from sidecar.decide.cases import read_cases
from sidecar.decide.compile import compile_snapshot
from sidecar.decide.documents import Document
from sidecar.decide.lint import review
from sidecar.decide.parse import Source, parse
from sidecar.decide.trial import Coverage, check, run
from sidecar.errors import Problem

PAGE = Path(__file__).parent.parent / "docs" / "cookbook.md"
_FENCED = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Recipe:
    title: str
    policy: str
    cases: str


def page() -> tuple[str, list[Recipe]]:
    """The documents that go with all recipes, and those."""
    head, *parts = re.split(r"^### ", PAGE.read_text(), flags=re.MULTILINE)
    [common] = _FENCED.findall(head)
    recipes = []
    for part in parts:
        title, _, rest = part.partition("\n")
        policy, cases = _FENCED.findall(rest)
        recipes.append(Recipe(title, policy, cases))
    return common, recipes


COMMON, RECIPES = page()


def documents(recipe: Recipe) -> list[Document]:
    common, wrong = parse([Source("common", COMMON)])
    found, problems = parse([Source("policy", recipe.policy)])
    kinds = {document.kind for document in found}
    every = [document for document in common if document.kind not in kinds] + found
    problems += review(every)  # nor anything that `check` warns of
    assert not problems + wrong, "\n".join(map(str, problems))
    return every


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.title)
def test_recipe(recipe: Recipe) -> None:
    snapshot = compile_snapshot(documents(recipe), namespace="default", labels={})
    file = read_cases(Source("cases", recipe.cases))
    coverage = Coverage()
    coverage.know(snapshot)
    for case in file.cases:
        assert not check(case, snapshot)
        result = run(case, snapshot)
        assert not isinstance(result, Problem), result
        assert not result.mismatches, f"{case.name}: {result.mismatches}"
        coverage.count(result.explanation)
    untried = [rule for rule, tried in coverage.rules.items() if not tried.covered]
    assert not untried, f"no case is about {untried}"


def test_there_are_enough() -> None:
    assert len(RECIPES) >= 20
    assert len({recipe.title for recipe in RECIPES}) == len(RECIPES)
