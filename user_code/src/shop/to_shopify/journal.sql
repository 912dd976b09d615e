-- The journal: one column for each field that is sent, and a key that Ferry makes of the old one.
create table customers (ferry_id uuid primary key, last_name text not null, email text not null, note text);
create table products (
    ferry_id uuid primary key, title text not null, vendor text, product_type text, price numeric(12, 2) not null
);
create table orders (ferry_id uuid primary key, customer uuid not null, number text not null, processed_at timestamp, note text);
create table order_lines (
    ferry_id uuid primary key, order_ref uuid not null, line int not null, product uuid not null, pieces int not null,
    unit_price numeric(14, 2) not null, currency text not null
);
