"""Jobs for whoever has only the UI: what the command line does beside loading, with typed configuration."""

from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from ferry.components.checks import evaluating_checks
from ferry.components.pools import holding, sources_of, targets_of
from ferry.components.resources import FerryResource
from ferry.cutover import Terms, cut_over
from ferry.declaration import migration_in
from ferry.errors import DeclarationError, FerryError
from ferry.pipeline import hold
from ferry.plan import MigrationPlan, plan_migration
from ferry.replay import replay
from ferry.rollback import roll_back
from ferry.settings import Settings
from ferry.settle import settle


class Selection(dg.Config):
    """Which entities a job works on."""

    entities: list[str] = Field(default_factory=list, description="entities; all if the list is empty")


class ReconcileConfig(Selection):
    """Whose rows are held against the stage, and whether what differs is put right."""

    repair: bool = Field(default=False, description="load what differs from the stage again; keys stay")


class ReplayConfig(Selection):
    """Which rejected rows are tried again."""

    reason: str | None = Field(default=None, description="only rows rejected for this reason")
    key: list[str] = Field(default_factory=list, description="only the row with this old key, part by part")


class RollbackConfig(Selection):
    """What is taken back."""

    partitions: list[str] = Field(
        default_factory=list, description="only these partitions of the named entities"
    )
    confirm: bool = Field(default=False, description="has to be true: the rows will be gone from the target")


class CutoverConfig(dg.Config):
    """When the migration is cut over, and who signs."""

    signed_by: str = Field(description="who signs")
    confirm: bool = Field(
        default=False, description="has to be true: later runs refuse to change what is signed"
    )
    small: int = Field(
        default=100, ge=0, description="rows that a pass may still change before the source must stop"
    )
    most_passes: int = Field(default=10, ge=1, description="give up after so many passes")
    quiet_seconds: float = Field(default=10, ge=0, description="how long nothing may change in the source")
    last: str = Field(
        default="everything",
        pattern="^(everything|changed)$",
        description="what the last pass reads: everything, or what updated_at says has changed",
    )


def migration_jobs(folder: Path) -> dg.Definitions:
    """The jobs `plan`, `settle`, `replay`, `reconcile`, `cutover` and `rollback` for the entities below `folder`."""

    @dg.op(name="plan_migration", out=dg.Out(dg.Nothing))
    def plan_op(context: dg.OpExecutionContext, ferry: FerryResource) -> None:
        """Hold the declarations against both databases and show the order and the references; writes nothing."""
        plans, _ = _planned(folder, ferry)
        _show(
            context,
            (
                {
                    "entity": name,
                    "from": plans[name].source.label,
                    "to": plans[name].target.label,
                    "partitions": len(plans[name].scheme.keys),
                    "references": "; ".join(f"{e.parent}: {e.strategy}" for e in plans[name].edges),
                }
                for name in plans.order
            ),
        )

    @dg.op(name="settle_entities", out=dg.Out(dg.Nothing))
    def settle_op(context: dg.OpExecutionContext, config: Selection, ferry: FerryResource) -> None:
        """Load children whose parents have come; decide about the rest where all parents are complete."""
        plans, settings = _planned(folder, ferry, config.entities)
        with (
            _worded(),
            holding(context, *targets_of(plans)),
            evaluating_checks(plans, settings, context.instance, context.run_id),
        ):
            _show(context, settle(plans, settings, context.run_id, only=tuple(config.entities)))

    @dg.op(name="replay_rejected_rows", out=dg.Out(dg.Nothing))
    def replay_op(context: dg.OpExecutionContext, config: ReplayConfig, ferry: FerryResource) -> None:
        """Judge and load rejected rows again, settle their children, deliver what has an API behind it."""
        from ferry.deliver import deliver_all  # here, because every run imports this module

        plans, settings = _planned(folder, ferry, config.entities)
        with (
            _worded(),
            holding(context, *targets_of(plans)),
            evaluating_checks(plans, settings, context.instance, context.run_id),
        ):
            chosen, key = tuple(config.entities), tuple(config.key) or None
            done = replay(plans, settings, chosen, reason=config.reason, key=key, run_id=context.run_id)
            settle(plans, settings, context.run_id)
            sent = deliver_all(plans, settings, context.run_id)
        _show(context, [*done, *sent])

    @dg.op(name="reconcile_target", out=dg.Out(dg.Nothing))
    def reconcile_op(context: dg.OpExecutionContext, config: ReconcileConfig, ferry: FerryResource) -> None:
        """Hold the target against what was staged; fails, and names the keys, if a row differs and is not put right."""
        plans, settings = _planned(folder, ferry, config.entities)
        rows, different = [], 0
        with (
            _worded(),
            holding(context, *targets_of(plans)),
            evaluating_checks(plans, settings, context.instance, context.run_id),
        ):
            chosen = tuple(config.entities)
            for name, result in hold(plans, chosen, settings, run_id=context.run_id, repair=config.repair):
                different += result.different
                rows += [
                    {"entity": name, "partition": result.partition, "difference": str(one)}
                    for one in result.differences
                ]
        _show(context, rows)
        if different:
            raise dg.Failure(
                f"{different} rows of the target are not as staged",
                metadata={"differences": dg.MetadataValue.table([dg.TableRecord(row) for row in rows[:100]])}
                if rows
                else {},
                allow_retries=False,
            )

    @dg.op(name="roll_back", out=dg.Out(dg.Nothing))
    def rollback_op(context: dg.OpExecutionContext, config: RollbackConfig, ferry: FerryResource) -> None:
        """Take back what was loaded; rows that were there before stay, and a reload gives the same keys."""
        with _worded():
            _confirmed(config.confirm, "nothing was rolled back")
            if config.partitions and not config.entities:
                raise DeclarationError(
                    "partitions belong to entities",
                    where="config: entities",
                    next="Name the entities as well",
                )
        plans, settings = _planned(folder, ferry, config.entities)
        with (
            _worded(),
            holding(context, *targets_of(plans)),
            evaluating_checks(plans, settings, context.instance, context.run_id),
        ):
            _show(context, roll_back(plans, settings, tuple(config.entities), tuple(config.partitions)))

    @dg.op(name="cut_over", out=dg.Out(dg.Nothing))
    def cutover_op(context: dg.OpExecutionContext, config: CutoverConfig, ferry: FerryResource) -> None:
        """Catch up, make sure that the source stands still, settle, reconcile, and sign."""
        with _worded():
            _confirmed(config.confirm, "nothing was cut over")
        plans, settings = _planned(folder, ferry)
        terms = Terms(
            config.signed_by, config.small, config.most_passes, config.quiet_seconds,
            "changed" if config.last == "changed" else "everything",
        )  # fmt: skip
        with (
            _worded(),
            holding(context, *sources_of(plans), *targets_of(plans)),
            evaluating_checks(plans, settings, context.instance, context.run_id),
        ):
            done = cut_over(plans, settings, terms, context.run_id, context.log.info)
        _show(context, ({"entity": name, **outcomes} for name, outcomes in done.entities.items()))

    ops: dict[str, tuple[Callable[..., Any], str]] = {
        "plan": (plan_op, "What would happen: order, references, partitions. Writes nothing."),
        "settle": (settle_op, "Settle the migration: no row waits that need not wait."),
        "replay": (replay_op, "Try rejected rows again, after what was wrong with them is mended."),
        "reconcile": (reconcile_op, "Hold the whole target against what was staged."),
        "cutover": (cutover_op, "Catch up, settle, reconcile, and sign off; asks for `confirm: true`."),
        "rollback": (rollback_op, "Take back entities or partitions; asks for `confirm: true`."),
    }
    return dg.Definitions(
        jobs=[
            dg.JobDefinition(
                name=name,
                description=text,
                graph_def=dg.GraphDefinition(name=name, node_defs=[op]),  # type: ignore[arg-type]
                executor_def=dg.in_process_executor,
            )
            for name, (op, text) in ops.items()
        ]
    )


def _confirmed(confirm: bool, nothing: str) -> None:
    if not confirm:
        raise DeclarationError(nothing, where="config: confirm", next="Set confirm: true if you mean it")


def _planned(
    folder: Path, ferry: FerryResource, entities: Iterable[str] = ()
) -> tuple[MigrationPlan, Settings]:
    with _worded():
        settings = ferry.settings()
        plans = plan_migration(migration_in(folder), settings)
        for name in entities:
            plans[name]
        return plans, settings


class _worded:  # noqa: N801 - used as a function
    """Turns an error of Ferry into Dagster's failure, with its words and its verdict on retries."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, FerryError):
            raise dg.Failure(str(error), allow_retries=error.retryable) from None


def _show(context: dg.OpExecutionContext, results: Iterable[Any]) -> None:
    """The results as a table in the run's log."""
    records = [
        dg.TableRecord(
            {str(k): v if isinstance(v, str | int | float) else str(v) for k, v in _row(result).items()}
        )
        for result in results
    ]
    metadata = {
        "result": dg.MetadataValue.table(records) if records else dg.MetadataValue.text("nothing to do")
    }
    context.log_event(dg.AssetObservation("migration", metadata=metadata, description=context.op.name))


def _row(result: Any) -> dict[str, Any]:
    return dict(result) if isinstance(result, dict) else asdict(result)
