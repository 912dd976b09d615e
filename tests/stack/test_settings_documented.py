"""No setting without its place in .env.example and its line in docs/settings.md."""

import re

from ferry.settings import Settings
from stack import ROOT

SET_BY_COMPOSE = {"COMPOSE_PROJECT_NAME"}


def named_in(path: str, pattern: str) -> set[str]:
    """What the first group of the pattern finds in a file of the checkout."""
    return set(re.findall(pattern, (ROOT / path).read_text(), re.MULTILINE))


def test_every_setting_of_the_stack_is_in_the_example() -> None:
    """Whoever reads .env.example has seen them all; what it lists is used."""
    used = named_in("docker-compose.yml", r"\$\{([A-Z_]+)") - SET_BY_COMPOSE
    assert named_in(".env.example", r"^#? ?([A-Z_]+)=") == used


def test_every_setting_is_explained() -> None:
    """docs/settings.md has a row for each setting of the stack and of the engine."""
    explained = named_in("docs/settings.md", r"^\| `([A-Z_]+)`")
    engine = {f"FERRY_{name.upper()}" for name in Settings.model_fields} - {"FERRY_CONNECTIONS"}
    stack = named_in(".env.example", r"^#? ?([A-Z_]+)=")
    assert stack | engine <= explained, sorted((stack | engine) - explained)
