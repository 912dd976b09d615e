-- The legacy shop: twenty years of habits. Few constraints, so the rows are what people and programs made of them.
-- customers has no key: an import of 1996 put some rows in twice.

CREATE TABLE customers (
    id           integer NOT NULL,
    name         varchar(120),
    email        varchar(254),
    phone        varchar(20),
    street       text,
    nation       smallint,
    segment      varchar(10),
    balance      numeric(12, 2),
    referred_by  integer,
    notes        text,
    crm_export   text,
    created_at   timestamp,
    updated_at   timestamptz NOT NULL
);

CREATE TABLE products (
    id           integer NOT NULL,
    name         varchar(80),
    manufacturer varchar(25),
    brand        varchar(10),
    kind         varchar(25),
    size         smallint,
    container    varchar(10),
    price        numeric(12, 2),
    description  text,
    updated_at   timestamptz NOT NULL
);

CREATE TABLE employees (
    id           integer NOT NULL,
    name         varchar(120),
    email        varchar(254),
    hired_on     date,
    salary       numeric(10, 2),
    manager_id   integer,
    updated_at   timestamptz NOT NULL
);

CREATE TABLE orders (
    id           bigint NOT NULL,
    customer_id  integer,
    employee_id  integer,
    status       char(1),
    total        numeric(14, 2),
    priority     varchar(15),
    placed_at    timestamp,
    comment      text,
    updated_at   timestamptz NOT NULL
);

-- In the order of the generator's columns: it is copied straight in.
CREATE TABLE order_lines (
    order_id     bigint NOT NULL,
    product_id   integer,
    supplier_id  integer,
    line_number  smallint NOT NULL,
    quantity     numeric(12, 2),
    price        numeric(14, 2),
    discount     numeric(4, 2),
    tax          numeric(4, 2),
    return_flag  char(1),
    status       char(1),
    shipped_on   date,
    committed_on date,
    received_on  date,
    instructions varchar(25),
    ship_mode    varchar(10),
    comment      text,
    updated_at   timestamptz NOT NULL DEFAULT '1999-01-01 00:00:00+00'
);

-- What the generator writes, in its own columns.
CREATE TEMPORARY TABLE raw_customer (
    key integer, name text, address text, nation smallint, phone text, balance numeric, segment text, comment text
);
CREATE TEMPORARY TABLE raw_part (
    key integer, name text, manufacturer text, brand text, kind text, size smallint, container text, price numeric,
    comment text
);
CREATE TEMPORARY TABLE raw_orders (
    key bigint, customer integer, status text, total numeric, day date, priority text, clerk text,
    ship_priority integer, comment text
);
