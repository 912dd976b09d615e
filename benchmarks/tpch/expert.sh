#!/usr/bin/env bash
# The bare move as a careful expert writes it by hand: binary COPY from database to database through a pipe, maps and
# inserts set by set, keys and foreign keys at the end. No contract, no ledger, no rejects, no reconciliation.
# Usage: PSQL=… expert.sh SOURCE_URL TARGET_URL   (the target is empty and made by target.sql)
set -euo pipefail
source_url=$1 target_url=$2
quiet=(--no-psqlrc --quiet --set ON_ERROR_STOP=1)
run() { "$PSQL" "${quiet[@]}" "$target_url"; }
move() { # TABLE: from the old database into stage.TABLE
  "$PSQL" "${quiet[@]}" "$source_url" -c "\\copy $1 to stdout (format binary)" |
    "$PSQL" "${quiet[@]}" "$target_url" -c "\\copy stage.$1 from stdin (format binary)"
}
shape() { # TABLE: its definition in the old database, as an unlogged staging table
  "$PSQL" "${quiet[@]}" --tuples-only --no-align "$source_url" -c "select 'create unlogged table stage.$1 (' ||
    string_agg(format('%I %s', attname, format_type(atttypid, atttypmod)), ', ' order by attnum) || ');'
    from pg_attribute where attrelid = '$1'::regclass and attnum > 0"
}
{ echo 'create schema stage;'; for table in customer orders lineitem; do shape "$table"; done; } | run
run <<'SQL'
alter table lineitem drop constraint lineitem_order_id_fkey, drop constraint lineitem_pkey;
alter table orders drop constraint orders_customer_id_fkey;
SQL
move customer & move orders & wait -n; wait
run <<'SQL'
set work_mem = '256MB'; set maintenance_work_mem = '512MB';
create table map_customer as select c_custkey as old_id, nextval('customer_id_seq') as new_id from stage.customer;
alter table map_customer add primary key (old_id);
insert into customer overriding system value
  select m.new_id, c_name, c_address, c_nationkey, c_phone, c_acctbal, c_mktsegment, c_comment
  from stage.customer join map_customer m on old_id = c_custkey;
create table map_orders as select o_orderkey as old_id, nextval('orders_id_seq') as new_id from stage.orders;
alter table map_orders add primary key (old_id);
analyze map_customer, map_orders, stage.orders;
insert into orders overriding system value
  select m.new_id, c.new_id, o_orderstatus, o_totalprice, o_orderdate, o_orderpriority, o_clerk, o_shippriority, o_comment
  from stage.orders join map_orders m on m.old_id = o_orderkey join map_customer c on c.old_id = o_custkey;
SQL
move lineitem
run <<'SQL'
set work_mem = '256MB'; set maintenance_work_mem = '512MB';
insert into lineitem
  select m.new_id, l_partkey, l_suppkey, l_linenumber, l_quantity, l_extendedprice, l_discount, l_tax, l_returnflag,
         l_linestatus, l_shipdate, l_commitdate, l_receiptdate, l_shipinstruct, l_shipmode, l_comment
  from stage.lineitem join map_orders m on m.old_id = l_orderkey;
alter table lineitem add primary key (order_id, l_linenumber);
alter table orders add foreign key (customer_id) references customer;
alter table lineitem add foreign key (order_id) references orders;
drop schema stage cascade;
SQL
