"""The shop's own assets beside the migration: reports in pandas over what was loaded and its published id map.

Every run imports this file, whatever it does; so what takes long to import is imported by the asset that needs it.
"""

import dagster as dg

from ferry.io_managers import Frames, IdMap, Relation

NUMBERS = {"old_id": "old_number", "new_id": "customer_id"}


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

    The map comes in pieces. The database adds up the orders of each, and so the report comes in pieces as well.
    """

    def pieces():
        for batch in numbers:
            pairs = batch.to_pandas().rename(columns=NUMBERS)
            totals = orders.among("customer_id", pairs["customer_id"]).query(
                "select customer_id, count(*) as orders, sum(total_amount) as revenue,"
                " min(ordered_on) as first_order, max(ordered_on) as last_order from relation group by 1"
            )
            report = pairs.merge(totals, on="customer_id", how="left")
            yield report.assign(orders=report["orders"].fillna(0).astype("int64"))

    return Frames(pieces())


@dg.asset(
    ins={
        "orders": dg.AssetIn("loaded_orders", input_manager_key="new_shop"),
        "numbers": dg.AssetIn("loaded_customers_and_id_mapping"),
    },
    io_manager_key="new_shop",
    group_name="reports",
    owners=["team:data"],
    kinds={"pandas", "table"},
    metadata={"dagster/table_name": "reports.order_history"},
)
def order_history(orders: Relation, numbers: IdMap) -> Frames:
    """One row an order and number that its customer had, the order whole: for whoever holds an old invoice.

    As large as the orders themselves, and never more of it in memory than a piece.
    """

    def pieces():
        for batch in numbers:
            pairs = batch.to_pandas().rename(columns=NUMBERS)
            for placed in orders.among("customer_id", pairs["customer_id"]).reader():
                yield placed.to_pandas().merge(pairs, on="customer_id")

    return Frames(pieces())


@dg.asset(
    ins={"orders": dg.AssetIn("loaded_orders", input_manager_key="new_shop")},
    io_manager_key="exports",
    group_name="reports",
    owners=["team:data"],
    kinds={"pandas", "parquet"},
)
def sales_by_month(orders: Frames) -> Frames:
    """One row a month: orders and revenue, for people with a spreadsheet. Orders by telephone have no month."""
    import pandas as pd

    pieces = [
        frame.assign(month=frame["ordered_on"].dt.strftime("%Y-%m").fillna("by telephone"))
        .groupby("month", as_index=False)
        .agg(orders=("order_id", "count"), revenue=("total_amount", "sum"))
        for frame in orders
    ]
    months = pd.concat([pd.DataFrame({"month": [], "orders": [], "revenue": []}), *pieces])
    return Frames([months.groupby("month", as_index=False).agg({"orders": "sum", "revenue": "sum"})])
