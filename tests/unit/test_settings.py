"""Settings come from the environment; what cannot be used is told by the name of its variable."""

import re
from pathlib import Path

import pytest

from ferry.components import FerryResource
from ferry.errors import DeclarationError
from ferry.settings import Settings, read_settings


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is set but by the test."""
    import os

    for name in os.environ:
        if name.startswith("FERRY_"):
            monkeypatch.delenv(name)


def test_each_field_is_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """`FERRY_` and the name in capitals, and one variable for each connection."""
    monkeypatch.setenv("FERRY_CHUNK_ROWS", "77")
    monkeypatch.setenv("FERRY_CONNECTIONS__LEGACY", "postgresql://a@b/c")
    found = read_settings()
    assert found.chunk_rows == 77
    assert found.url("legacy") == "postgresql://a@b/c"
    assert found.url("Legacy") == "postgresql://a@b/c"


@pytest.mark.parametrize(
    ("name", "value"),
    [("CHUNK_ROWS", "many"), ("CHUNK_ROWS", "0"), ("CHUNK_ROWS", "1.5"), ("CHUNK_BYTES", "1"), ("READ_AHEAD", "0"),
     ("LOCK_TIMEOUT_SECONDS", "-1"), ("RETRIES", "-1"), ("RETRY_SECONDS", "soon")],
)  # fmt: skip
def test_a_value_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """Variable, value, and where to read on."""
    monkeypatch.setenv(f"FERRY_{name}", value)
    with pytest.raises(DeclarationError) as error:
        read_settings()
    assert f"FERRY_{name} cannot be used" in str(error.value)
    assert f"found '{value}'" in str(error.value)


def test_a_missing_connection_names_its_variable_and_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    """What to set, and the connection that was probably meant."""
    monkeypatch.setenv("FERRY_CONNECTIONS__LEGACY", "postgresql://a@b/c")
    with pytest.raises(DeclarationError) as error:
        read_settings().url("legcy", "orders/defs.yaml: source.connection")
    assert str(error.value).startswith("orders/defs.yaml: source.connection: connection 'legcy' has no URL")
    assert "FERRY_CONNECTIONS__LEGCY is not set" in str(error.value)
    assert "Did you mean 'legacy'?" in str(error.value)


def test_no_password_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither where settings are printed nor where one of them is refused."""
    monkeypatch.setenv("FERRY_CONNECTIONS__LEGACY", "postgresql://a:hush-hush@b/c")
    assert "hush-hush" not in repr(read_settings())
    assert "hush-hush" not in str(read_settings().model_dump())
    monkeypatch.setenv("FERRY_CONNECTIONS", '["hush-hush"]')
    with pytest.raises(DeclarationError) as error:
        read_settings()
    assert "FERRY_CONNECTIONS" in str(error.value)
    assert "hush-hush" not in str(error.value)


def test_a_connection_of_several_parts_has_a_variable_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts nest with two underscores or come as JSON; a URL alone is the part `url`; none shows."""
    monkeypatch.setenv("FERRY_CONNECTIONS__SHOP__URL", "https://shop.example.com")
    monkeypatch.setenv("FERRY_CONNECTIONS__SHOP__TOKEN", "hush-hush")
    monkeypatch.setenv("FERRY_CONNECTIONS__API", '{"url": "https://api", "auth": {"kind": "bearer"}}')
    monkeypatch.setenv("FERRY_CONNECTIONS__FILES", "/data/exports")
    settings = read_settings()
    assert settings.parts("shop") == {"url": "https://shop.example.com", "token": "hush-hush"}
    assert settings.parts("api") == {"url": "https://api", "auth": {"kind": "bearer"}}
    assert settings.parts("files") == {"url": "/data/exports"}
    assert "hush-hush" not in repr(settings)


def test_a_relative_stage_is_the_same_folder_for_every_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is made absolute once; a URI stays as it is."""
    monkeypatch.chdir(tmp_path)
    assert Settings(stage_uri="out/stage").stage_root == str(tmp_path / "out/stage")
    assert Settings(stage_uri="s3://bucket/prefix").stage_root == "s3://bucket/prefix"


@pytest.mark.parametrize(
    ("uri", "words"),
    [("s4://bucket/key:hush-hush", "no stage can lie at 's4://'. Did you mean 's3'?"),
     ("S3:/bucket", "'S3:' is not followed by two slashes. Write s3://… or, for a folder of that name, ./S3:…"),
     ("s3:bucket", "'s3:' is not followed by two slashes"),
     ("https://example.com/stage", "no stage can lie at 'https://'. Write a path, or one of these schemes: abfs, "),
     ("gs://bucket", "the package for 'gs://' is not installed. Please install gcsfs")],
)  # fmt: skip
def test_a_stage_that_can_be_nowhere_is_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, uri: str, words: str
) -> None:
    """An unknown scheme, one that is a folder's name by mistake, one that cannot be written to or is not installed.

    It is refused in the environment and in the resource's configuration, and what follows the scheme is not shown.
    """
    for place, said in ((uri, None), ("out", uri)):
        monkeypatch.setenv("FERRY_STAGE_URI", place)
        with pytest.raises(DeclarationError) as error:
            FerryResource(stage_uri=said).settings()
        assert str(error.value).startswith(f"FERRY_STAGE_URI: {words}")
        assert "hush-hush" not in str(error.value)


@pytest.mark.parametrize(
    "uri", ["out/stage", "/var/lib/a:b", "./s3:/x", "s3://b/p", "file:///x", "sftp://h/p"]
)
def test_a_stage_may_be_a_folder_or_a_store(uri: str) -> None:
    """Paths with a colon in them included."""
    assert Settings(stage_uri=uri).stage_uri == uri


def test_every_variable_that_is_read_by_its_name_is_explained() -> None:
    """What is no field of the settings, such as the folder of the declarations, is in docs/settings.md too."""
    root = Path(__file__).parents[2]
    named = r"""(?:envvar=|environ\.get\(|environ\[|getenv\()"(FERRY_\w+)\""""
    read = {
        name
        for path in (root / "user_code" / "src").rglob("*.py")
        for name in re.findall(named, path.read_text())
    }
    page = (root / "docs" / "settings.md").read_text()
    assert {"FERRY_DEFS", "FERRY_DEMO_HOME"} <= read
    unsaid = [name for name in sorted(read) if f"`{name}`" not in page]
    assert [name for name in unsaid if "CONNECTIONS__" not in name] == []
