"""The shop's own assets beside the migration: reports in pandas over what was loaded and its published id map."""

import dagster as dg
import pandas as pd

from ferry.io_managers import Frames, IdMap, Relation


@dg.asset(
    ins={
        "orders": dg.AssetIn("loaded_orders", input_manager_key="new_shop"),
        "numbers": dg.AssetIn("loaded_customers_and_id_mapping"),
    },
    io_manager_key="new_shop",
    group_name="reports",
    owners=["team:data"],
    kinds={"pandas", "table"},
    metadata={"dagster/table_name": "reports.customer_history"},
)
def customer_history(orders: Relation, numbers: IdMap) -> Frames:
    """One row a customer of the old shop: the number on old invoices, the new one, and what was ever ordered.

    The database adds orders up; the map comes in pieces, and so does the report.
    """
    totals = orders.query(
        "select customer_id, count(*) as orders, sum(total_amount) as revenue, min(ordered_on) as first_order,"
        " max(ordered_on) as last_order from relation group by 1"
    )

    def pieces():
        for batch in numbers:
            pairs = batch.to_pandas().rename(columns={"old_id": "old_number", "new_id": "customer_id"})
            report = pairs.merge(totals, on="customer_id", how="left")
            yield report.assign(orders=report["orders"].fillna(0).astype("int64"))

    return Frames(pieces())


@dg.asset(
    ins={"orders": dg.AssetIn("loaded_orders", input_manager_key="new_shop")},
    io_manager_key="exports",
    group_name="reports",
    owners=["team:data"],
    kinds={"pandas", "parquet"},
)
def sales_by_month(orders: Frames) -> pd.DataFrame:
    """One row a month: orders and revenue, for people with a spreadsheet. Orders by telephone have no month."""
    pieces = [
        frame.assign(month=frame["ordered_on"].dt.strftime("%Y-%m").fillna("by telephone"))
        .groupby("month", as_index=False)
        .agg(orders=("order_id", "count"), revenue=("total_amount", "sum"))
        for frame in orders
    ]
    months = pd.concat([pd.DataFrame({"month": [], "orders": [], "revenue": []}), *pieces])
    return months.groupby("month", as_index=False).agg({"orders": "sum", "revenue": "sum"})
