-- The new system: generated keys for customers and orders, the natural key for lines, real foreign keys.
CREATE TABLE customer (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, c_name text NOT NULL, c_address text NOT NULL,
  c_nationkey int NOT NULL, c_phone text NOT NULL, c_acctbal numeric(15, 2) NOT NULL, c_mktsegment text NOT NULL,
  c_comment text NOT NULL);
CREATE TABLE orders (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer_id bigint NOT NULL REFERENCES customer,
  o_orderstatus text NOT NULL, o_totalprice numeric(15, 2) NOT NULL, o_orderdate date NOT NULL,
  o_orderpriority text NOT NULL, o_clerk text NOT NULL, o_shippriority int NOT NULL, o_comment text NOT NULL);
CREATE TABLE lineitem (
  order_id bigint NOT NULL REFERENCES orders, l_partkey bigint NOT NULL, l_suppkey bigint NOT NULL,
  l_linenumber int NOT NULL, l_quantity numeric(15, 2) NOT NULL, l_extendedprice numeric(15, 2) NOT NULL,
  l_discount numeric(15, 2) NOT NULL, l_tax numeric(15, 2) NOT NULL, l_returnflag text NOT NULL,
  l_linestatus text NOT NULL, l_shipdate date NOT NULL, l_commitdate date NOT NULL, l_receiptdate date NOT NULL,
  l_shipinstruct text NOT NULL, l_shipmode text NOT NULL, l_comment text NOT NULL,
  PRIMARY KEY (order_id, l_linenumber));
