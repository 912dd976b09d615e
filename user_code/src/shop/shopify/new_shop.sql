-- The new shop, for whoever comes from Shopify: its own keys, its own names, every reference a foreign key.

CREATE TABLE customers (
    customer_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    email           text NOT NULL UNIQUE,
    given_name      text,
    family_name     text NOT NULL CHECK (family_name <> ''),
    note            text,
    tags            jsonb NOT NULL,
    member_since    timestamptz NOT NULL
);

CREATE TABLE products (
    product_id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    title           text NOT NULL,
    handle          text NOT NULL UNIQUE,
    brand           text NOT NULL,
    category        text NOT NULL,
    listed_since    timestamptz NOT NULL
);

CREATE TABLE orders (
    order_id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer_id     bigint REFERENCES customers,
    number          text NOT NULL UNIQUE,
    currency        text NOT NULL,
    total           numeric(20, 6) NOT NULL CHECK (total >= 0),
    paid            text,
    shipped         text NOT NULL,
    ordered_at      timestamptz NOT NULL
);
CREATE INDEX ON orders (customer_id);

CREATE TABLE order_items (
    item_id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id        bigint NOT NULL REFERENCES orders,
    product_id      bigint REFERENCES products,
    title           text NOT NULL,
    sku             text,
    quantity        bigint NOT NULL CHECK (quantity > 0),
    unit_price      numeric(20, 6) NOT NULL
);
CREATE INDEX ON order_items (order_id);
CREATE INDEX ON order_items (product_id);
