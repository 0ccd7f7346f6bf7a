"""What the texts of settings mean. Each raises ValueError with what was expected."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sidecar import config_tls

MAX_WORKERS: Final = 64


def to_path(text: str) -> Path:
    """A path, `~` included."""
    if not text:  # a variable that is not set; to Path it would be the current folder
        raise ValueError("the path is empty")
    return Path(text).expanduser()


def to_existing(text: str) -> Path:
    """One where something is."""
    path = to_path(text)
    if not path.exists():
        raise ValueError(f"{text} does not exist")
    return path


def to_file(text: str) -> Path:
    """A file that can be read."""
    path = to_existing(text)
    if not path.is_file():
        raise ValueError(f"{text} is not a file")
    try:
        with path.open("rb"):
            return path
    except OSError as error:
        raise ValueError(f"{text} cannot be read: {error.strerror}") from None


def to_pem(text: str) -> str:
    """PEM: the name of a file that can be read, or what would be in it."""
    return text if text.lstrip().startswith("-----BEGIN") else str(to_file(text))


def to_bundle(text: str) -> str:
    """TRUST-DOMAIN=FILE."""
    domain, path = config_tls.trust_bundle(text)
    return f"{domain}={to_file(str(path))}"


def to_documents(text: str) -> Path:
    """A file or a folder."""
    path = to_existing(text)
    if not path.is_file() and not path.is_dir():
        raise ValueError(f"{text} is neither a file nor a folder")
    return path


def to_folder(text: str) -> Path:
    """A folder, or where one can be made."""
    path = to_path(text)
    if path.exists() and not path.is_dir():
        raise ValueError(f"{text} is not a folder")
    return path


def to_count(text: str) -> int:
    """A whole number from 1."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ValueError(f"{text!r} is not a whole number from 1")
    return int(text)


def to_workers(text: str) -> int:
    """So many processes."""
    if (count := to_count(text)) > MAX_WORKERS:
        raise ValueError(f"{text} is more than {MAX_WORKERS}; a worker keeps one core busy")
    return count


def to_label(text: str) -> tuple[str, str]:
    """KEY=VALUE."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ValueError(f"{text!r} is not a label, such as app=payments")
    return key, value


def to_name(text: str) -> str:
    """The name of a namespace."""
    if not text or not all(c.isalnum() or c in "-." for c in text) or text != text.lower():
        raise ValueError(f"{text!r} is not a name: lower-case letters, digits, '-' and '.'")
    return text


def to_boolean(text: str) -> bool:
    """Yes or no."""
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in known:
        raise ValueError(f"{text!r} is neither true nor false")
    return known[text.lower()]
