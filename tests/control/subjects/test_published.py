"""What documents say to whoever acts for customers."""

from __future__ import annotations

import pytest

from sidecar.control.catalogue import Catalogue
from sidecar.control.subjects.published import Published
from sidecar.control.subjects.records import Consent, NotStored, Offered
from tests.control.subjects.streams import published as publish

NOW = 1_800_000_000.0
DOCUMENTS = """
apiVersion: authz.sidecar/v1
kind: ConsentPurpose
metadata: {name: terms, namespace: shop}
spec: {words: {en: {title: Terms, text: Ours.}, de: {title: Bedingungen, text: Unsere.}}, version: 3}
---
apiVersion: authz.sidecar/v1
kind: ProfileAttribute
metadata: {name: phone, namespace: shop}
spec: {type: phone, words: {en: {label: Phone}}, retention: 30d}
---
apiVersion: authz.sidecar/v1
kind: IdentityPolicy
metadata: {name: retail, namespace: shop}
spec: {}
"""


@pytest.fixture
def published() -> Published:
    catalogue = Catalogue()
    publish(catalogue, "", namespace="platform", version=0)
    publish(catalogue, DOCUMENTS, namespace="shop")
    return Published(catalogue, lambda: NOW)


def test_documents_are_found_by_their_names(published: Published) -> None:
    assert published.purpose("shop/terms") is not None
    assert list(published.attributes("shop")) == ["shop/phone"]
    assert published.identity("shop/retail") is not None
    for ref in ("bank/terms", "terms", "shop/other", ""):
        assert published.purpose(ref) is None
        assert published.identity(ref) is None
        assert published.keep(ref) is None


def test_what_is_set_fits_its_document_and_is_kept_as_long_as_it_says(
    published: Published,
) -> None:
    found = published.offered("shop/phone", "+49 30 1234567", "operator")
    assert found == Offered("+49301234567", "operator", NOW + 30 * 86_400)
    assert published.offered("shop/unwritten", 7, "import") == Offered(7, "import", None)
    with pytest.raises(NotStored, match="attributes: shop/phone is phone, and takes no such value"):
        published.offered("shop/phone", "none", "operator")


def test_a_withdrawal_is_of_what_was_granted_in_the_words_of_today(published: Published) -> None:
    held = Consent("cns_1", "shop/terms", 2, "ab", "granted", NOW, "fr", None, 1, 0)
    found = published.withdrawal(held, ("de",), via="api", by="eve")
    assert (found.state, found.version, found.binding) == ("withdrawn", 2, "ab")
    assert (found.language, found.title, found.text) == ("de", "Bedingungen", "Unsere.")
    assert (found.via, found.by) == ("api", "eve")
    gone = published.withdrawal(held._replace(purpose="shop/gone"), (), via="page")
    assert (gone.language, gone.title, gone.text) == ("fr", "shop/gone", "")
