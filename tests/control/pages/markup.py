"""What a page must be like that no browser tells: well-formed, labelled, named, and quiet."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

_VOID = frozenset(("meta", "link", "input", "img", "br", "hr"))
_REFERRING = ("aria-describedby", "aria-labelledby", "for")
_HEADINGS = ("h1", "h2", "h3", "h4")


@dataclass
class Page(HTMLParser):
    """A parsed page; `mistakes` is what is wrong with it."""

    text: str
    mistakes: list[str] = field(default_factory=list)
    elements: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    open_: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.feed(self.text)
        self.close()
        if self.open_:
            self.mistakes.append(f"left open: {self.open_}")
        self._names()
        self._structure()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if len(found) != len(attrs):
            self.mistakes.append(f"an attribute twice: {tag}")
        if tag == "script" or "style" in found or any(name.startswith("on") for name in found):
            self.mistakes.append(f"active or inline: {tag} {attrs}")
        onward = tag == "a" and found.get("rel") == "noreferrer"  # out of our pages, and on purpose
        for name in () if onward else ("src", "href", "action"):
            if "://" in found.get(name, "").partition("?")[0] or found.get(name, "").startswith(
                "//"
            ):
                self.mistakes.append(f"elsewhere: {found[name]}")
        if (
            tag in ("ul", "dl", "section", "form", "p", "h1", "h2", "h3", "div")
            and "p" in self.open_
        ):
            self.mistakes.append(f"{tag} within p")
        if tag == "form" and "form" in self.open_:
            self.mistakes.append("form within form")
        if tag == "input" and found.get("type") != "hidden" and "form" not in self.open_:
            self.mistakes.append("a field outside of a form")
        self.elements.append((tag, found))
        if tag not in _VOID:
            self.open_.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open_ or self.open_[-1] != tag:
            self.mistakes.append(f"</{tag}> within {self.open_}")
        else:
            self.open_.pop()

    def all(self, tag: str) -> list[dict[str, str]]:
        return [found for each, found in self.elements if each == tag]

    def fields(self) -> dict[str, str]:
        """What the first form would send untouched, but for its buttons."""
        return {
            each["name"]: each.get("value", "")
            for each in self.all("input")
            if each.get("type") not in ("radio", "checkbox") or "checked" in each
        }

    def leads_to(self) -> str:
        """Where it takes a browser at once; empty: nowhere."""
        found = [
            each["content"] for each in self.all("meta") if each.get("http-equiv") == "refresh"
        ]
        return found[0].removeprefix("0; url=") if found else ""

    def _names(self) -> None:
        ids = [found["id"] for _, found in self.elements if "id" in found]
        for each in sorted({each for each in ids if ids.count(each) > 1}):
            self.mistakes.append(f"id twice: {each}")
        labelled = {each.get("for") for each in self.all("label")}
        for tag, found in self.elements:
            for name in _REFERRING:
                for each in found.get(name, "").split():
                    if each not in ids:
                        self.mistakes.append(f"{tag} {name}={each}: not there")
            if found.get("href", "").startswith("#") and found["href"][1:] not in ids:
                self.mistakes.append(f"leads nowhere: {found['href']}")
            visible = tag == "select" or (tag == "input" and found.get("type") != "hidden")
            if visible and found.get("id") not in labelled:
                self.mistakes.append(f"without a label: {found}")
            if tag == "img" and "alt" not in found:
                self.mistakes.append("img without alt")

    def _structure(self) -> None:
        tags = [tag for tag, _ in self.elements]
        if not self.all("html") or not self.all("html")[0].get("lang"):
            self.mistakes.append("no language")
        for once in ("h1", "main", "title"):
            if tags.count(once) != 1:
                self.mistakes.append(f"{tags.count(once)} of {once}")
        if tags.count("fieldset") != tags.count("legend"):
            self.mistakes.append("a fieldset without legend")
        levels = [int(tag[1]) for tag in tags if tag in _HEADINGS]
        start = levels.index(1) if 1 in levels else 0
        for before, after in zip(levels[start:], levels[start + 1 :], strict=False):
            if after > before + 1:
                self.mistakes.append(f"h{after} after h{before}")


def read(text: str) -> Page:
    """A page that has nothing wrong with it."""
    page = Page(text)
    assert page.mistakes == []
    return page
