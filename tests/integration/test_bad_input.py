"""What is wrong with a declaration, a setting or a database is told in one message, before anything is written."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Shop
from ferry import cli
from migrating import Migrating, declarations_by_year
from small import Small

Refuse = Callable[..., str]


@pytest.fixture
def by_year(module_shop: Shop, tmp_path: Path) -> Migrating:
    """Declarations of this test's own over a shop that all tests here share, since none may write a row."""
    return Migrating(
        module_shop.source_url,
        module_shop.target_url,
        declarations_by_year(tmp_path / "defs"),
        tmp_path / "stage",
    )


@pytest.fixture
def refuse(by_year: Migrating, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Refuse:
    """`refuse("run", FERRY_…=…)` runs the command and gives its message, once all that holds for any refusal is sure.

    The status is 1, the message is one line on standard error with no stack trace and no password, standard output
    is empty, and the target has no schema `ferry`.
    """

    def call(*words: str, **environment: str) -> str:
        for name, value in {**by_year.environment, **environment}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("sys.argv", ["ferry", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfd.readouterr()
        assert ended.value.code == 1, err
        assert out == ""
        assert len(err.splitlines()) == 1, err
        assert "Traceback" not in err
        for url in (by_year.source_url, *environment.values()):
            for secret in re.findall(r"//\w+:([^@]+)@", url):
                assert secret not in err
        with by_year.target() as target:
            assert target.execute("select to_regnamespace('ferry')").fetchone() == (None,)
        return err

    return call


def edit(by_year: Migrating, file: str, old: str, new: str) -> Path:
    """Replace a text in one of the declarations and give the file's path."""
    path = by_year.folder / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return path


@pytest.mark.parametrize(
    ("file", "old", "new", "key", "found", "nearest"),
    [
        ("orders/defs.yaml", "table: orders", "table: ordrs", "source.table", "no table 'ordrs'", "'orders'"),
        ("orders/defs.yaml", "table: public.orders", "table: public.oders", "target.table",
         "no table 'public.oders'", "'public.orders'"),
        ("orders/defs.yaml", "total: total_amount", "totl: total_amount", "columns",
         "public.orders has no column 'totl'", "'total'"),
        ("orders/defs.yaml", "total: total_amount", "total: total_amout", "columns.total",
         "public.orders has no column 'total_amout'", "'total_amount'"),
        ("orders/defs.yaml", "key: id", "key: idd", "source.key", "no column 'idd'", "'id'"),
        ("orders/defs.yaml", "by: placed_at", "by: place_at", "partition.by", "no column 'place_at'", "'placed_at'"),
        ("orders/defs.yaml", "column: order_id", "column: oder_id", "target.key.column",
         "no column 'oder_id'", "'order_id'"),
        ("orders/defs.yaml", "drop: [updated_at]", "drop: [update_at]", "drop",
         "no column 'update_at'", "'updated_at'"),
        ("orders/defs.yaml", "column: customer_id", "column: custmer_id", "references[0].column",
         "no column 'custmer_id'", "'customer_id'"),
        ("orders/defs.yaml", "to: customers", "to: custmers", "references[0].to",
         "no entity 'custmers'", "'customers'"),
        ("order_lines/defs.yaml", "through: orders", "through: oders", "partition.through",
         "'oders' is no parent of 'order_lines'", "'orders'"),
        ("customers/defs.yaml", "[email]", "[emial]", "match.on", "no column 'emial'", "'email'"),
        ("orders/defs.yaml", "contract: Order", "contract: Oder", "contract", "no contract 'Oder'", "'Order'"),
        ("orders/contract.py", "total:", "totel:", "", "names a column 'totel'", "'total'"),
        ("orders/contract.py", "priority: str | None", "priorty: str | None = None", "", "names a column 'priorty'",
         "'priority'"),
        ("orders/defs.yaml", "references:", "refrences:", "refrences", "no key 'refrences'", "'references'"),
        ("orders/defs.yaml", "on_missing: reject", "on_mising: reject", "references[0].on_mising",
         "no key 'on_mising'", "'on_missing'"),
        ("orders/defs.yaml", "connection: legacy", "connection: lagacy", "source.connection",
         "connection 'lagacy' has no URL", "'legacy'"),
        ("orders/defs.yaml", "on_missing: reject", "on_missing: rejct", "references[0].on_missing",
         "'rejct'", "'reject'"),
        ("orders/defs.yaml", "every: year", "every: yaer", "partition.every", "'yaer'", "'year'"),
        ("orders/defs.yaml", "components.Entity", "component.Entty", "type", "no component 'ferry.component.Entty'",
         "'ferry.components.Entity'"),
    ],
)  # fmt: skip
def test_a_wrong_name_is_told_with_file_key_and_the_nearest_right_one(
    by_year: Migrating,
    refuse: Refuse,
    file: str,
    old: str,
    new: str,
    key: str,
    found: str,
    nearest: str,
) -> None:
    """One misspelled name in a declaration: where it stands, what was found there, what was probably meant."""
    path = edit(by_year, file, old, new)
    said = refuse("run")
    assert f"{path}: {key}" in said if key else str(path) in said
    assert found in said
    assert f"Did you mean {nearest}?" in said


@pytest.mark.parametrize(
    ("file", "old", "new", "where", "words"),
    [
        ("orders/defs.yaml", "  source: {", "  source: [", "orders/defs.yaml:9", "not readable YAML"),
        ("orders/defs.yaml", "  contract: Order\n", "", "orders/defs.yaml: contract", "Field required"),
        ("orders/contract.py", "import Contract", "import Contact", "orders/contract.py",
         "cannot import name 'Contact'"),
        ("orders/defs.yaml", "  drop: [updated_at]\n", "", "orders/defs.yaml: columns",
         "'updated_at' goes nowhere: public.orders has no column 'updated_at'"),
        ("orders/defs.yaml", "total: total_amount", "total: state", "orders/defs.yaml: columns",
         "cannot be carried exactly into state (text)"),
        ("products/defs.yaml", "    name: title\n", "", "products/defs.yaml: columns", "'name' goes nowhere"),
        ("products/defs.yaml", "drop: [updated_at]", "drop: [updated_at, name]", "products/defs.yaml: columns",
         "nothing fills public.products.title. it is NOT NULL and has no default. Map a source column to it"),
        ("orders/defs.yaml", "start: 1992-01-01", "start: 2024-01-01", "orders/defs.yaml: partition",
         "`end` lies before `start`"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_with_its_place(
    by_year: Migrating, refuse: Refuse, file: str, old: str, new: str, where: str, words: str
) -> None:
    """A declaration that cannot be read, or cannot be carried out: the file, the key or line, and the reason."""
    edit(by_year, file, old, new)
    said = refuse("run")
    assert f"{by_year.folder / where}" in said
    assert words in said


def test_a_partition_outside_the_range_names_the_range(by_year: Migrating, refuse: Refuse) -> None:
    """The first and the last partition are in the message; so is the nearest one."""
    said = refuse("run", "--partition", "1999")
    assert "there is no partition '1999'" in said
    assert "1992 … 1998" in said
    assert "Did you mean '1998'?" in said
    assert "there is no partition '1989'" in refuse("run", "orders", "--partition", "1989:1993")


@pytest.mark.parametrize("command", ["plan", "run", "status", "rejects", "settle", "reconcile"])
def test_an_unknown_entity_is_told_by_every_command(refuse: Refuse, command: str) -> None:
    """A misspelled entity on the command line."""
    said = refuse(command, "oders")
    assert "there is no entity 'oders'" in said
    assert "Did you mean 'orders'?" in said


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("FERRY_CHUNK_ROWS", "many", "FERRY_CHUNK_ROWS cannot be used"),
        ("FERRY_CHUNK_ROWS", "0", "greater than or equal to 1"),
        ("FERRY_LOCK_TIMEOUT_SECONDS", "soon", "FERRY_LOCK_TIMEOUT_SECONDS cannot be used"),
        ("FERRY_CONNECTIONS__CRM", "postgresql://crm:secret word@[::1", "FERRY_CONNECTIONS__CRM"),
        ("FERRY_CONNECTIONS__CRM", "mysql", "FERRY_CONNECTIONS__CRM"),
    ],
)
def test_an_unreadable_setting_is_named(refuse: Refuse, name: str, value: str, words: str) -> None:
    """The variable's own name stands in the message, and the bad value of a secret does not."""
    said = refuse("run", **{name: value})
    assert words in said
    if "CONNECTIONS" in name:
        assert value not in said
    else:
        assert f"'{value}'" in said


def test_a_folder_without_declarations_is_told(by_year: Migrating, refuse: Refuse, tmp_path: Path) -> None:
    """A folder that is not there, and one that holds no entity."""
    assert f"{tmp_path / 'nowhere'}: there is no such folder" in refuse(
        "run", "--defs", str(tmp_path / "nowhere")
    )
    (tmp_path / "empty").mkdir()
    assert "declares no entity" in refuse("run", "--defs", str(tmp_path / "empty"))


def test_an_unreachable_database_is_told_without_its_password(refuse: Refuse) -> None:
    """Nobody listens there: which connection, which place, which variable to look at."""
    said = refuse("run", FERRY_CONNECTIONS__LEGACY="postgresql://reader:hush-hush@127.0.0.1:1/shop")
    for words in (
        "connection 'legacy' does not open",
        "127.0.0.1:1/shop",
        "refused",
        "FERRY_CONNECTIONS__LEGACY",
    ):
        assert words in said


def test_a_wrong_password_is_told_without_it(by_year: Migrating, refuse: Refuse) -> None:
    """The server's own word, and the variable that holds the password."""
    for name, url in (("LEGACY", by_year.source_url), ("CRM", by_year.target_url)):
        wrong = re.sub(r"(//\w+):[^@]+@", r"\1:hush-hush@", url)
        said = refuse("run", **{f"FERRY_CONNECTIONS__{name}": wrong})
        assert f"connection '{name.lower()}' does not open" in said
        assert "password authentication failed" in said
        assert f"FERRY_CONNECTIONS__{name}" in said


def test_a_database_that_does_not_exist_is_told(by_year: Migrating, refuse: Refuse) -> None:
    """The name that was looked for."""
    said = refuse("plan", FERRY_CONNECTIONS__CRM=re.sub(r"/new_shop\w+", "/no_such_shop", by_year.target_url))
    assert 'database "no_such_shop" does not exist' in said


def test_json_errors_are_json(by_year: Migrating, refuse: Refuse) -> None:
    """With `--json` the message comes in its parts: what, where, why, next, and whether trying again can help."""
    path = edit(by_year, "orders/defs.yaml", "table: orders", "table: ordrs")
    said = json.loads(refuse("run", "--json"))
    assert said["error"] == "DeclarationError"
    assert said["where"] == f"{path}: source.table"
    assert said["retryable"] is False


def test_planning_writes_nothing(by_year: Migrating, monkeypatch: pytest.MonkeyPatch,
                                 capfd: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    """`ferry plan` on a right declaration ends with 0 and leaves no trace in the target.

    It says of each rule of each contract which way it goes, and why not the fast one.
    """
    contract = by_year.folder / "orders" / "contract.py"
    contract.write_text(
        contract.read_text() + "\n    @pydantic.field_validator('priority')\n    @classmethod\n"
        "    def is_known(cls, value: str) -> str:\n        return value\n"
    )
    contract.write_text("import pydantic\n" + contract.read_text())
    for name, value in by_year.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.argv", ["ferry", "plan"])
    before = by_year.row_versions("public")
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code in (0, None)
    out = capfd.readouterr().out
    assert re.findall(r"^\d  (\w+)", out, re.MULTILINE) == [
        "customers", "employees", "orders", "products", "order_lines",
    ]  # fmt: skip
    assert re.search(r"orders +priority +.* distinct", out)
    assert re.search(r"customers +email +.* columnar", out)
    assert by_year.row_versions("public") == before
    with by_year.target() as target:
        assert target.execute("select to_regnamespace('ferry')").fetchone() == (None,)


def test_a_plan_says_which_contract_can_never_hold(new_database: Callable[..., str], tmp_path: Path) -> None:
    """A number asked of text is told before a run rejects every row; what `parse` reads is not, nor what may pass."""
    small = Small(new_database, tmp_path)
    small.source(
        "create table places (id bigint primary key, zip text, floors text, area numeric(9, 2), note text)"
    )
    small.target(
        "create table places (new_id bigint generated always as identity primary key, zip text, floors int,"
        " area numeric(9, 2), note text)"
    )
    small.declare(
        "places",
        "id: int; zip: int | None; floors: int | None; area: decimal.Decimal | None; note: Literal['a'] | None",
        parse={"floors": "integer"},
    )
    said = small.migrating.ferry("plan", "--json")
    assert [list(one["unsatisfiable"]) for one in json.loads(said.stdout)] == [["zip"]]
    assert "places.zip: every value will be rejected" in " ".join(
        small.migrating.ferry("plan").stdout.split()
    )
