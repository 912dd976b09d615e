-- The new shop: it has been open for a while when the history of the old one arrives. Its own names, its own
-- types, its own keys; every reference is a validated foreign key with an index behind it.

CREATE TABLE customers (
    customer_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    full_name       text NOT NULL CHECK (full_name <> ''),
    email           text NOT NULL UNIQUE,
    phone           text,
    street_address  text,
    country_number  integer,
    market_segment  text NOT NULL,
    credit          numeric(18, 2) NOT NULL,
    referred_by_id  bigint REFERENCES customers,
    remarks         text,
    member_since    timestamp,
    loyalty_points  integer NOT NULL DEFAULT 0
);
CREATE INDEX ON customers (referred_by_id);

CREATE TABLE products (
    product_id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    title           text NOT NULL,
    maker           text NOT NULL,
    brand           text NOT NULL,
    category        text NOT NULL,
    size            integer NOT NULL,
    packaging       text,
    list_price      numeric(14, 4) NOT NULL CHECK (list_price > 0),
    description     text
);

CREATE TABLE staff (
    staff_id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    full_name       text NOT NULL,
    work_email      text NOT NULL,
    joined_on       date NOT NULL,
    reports_to      bigint REFERENCES staff
);
CREATE INDEX ON staff (reports_to);

CREATE TABLE orders (
    order_id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer_id     bigint NOT NULL REFERENCES customers,
    sold_by         bigint REFERENCES staff,
    state           text NOT NULL CHECK (state IN ('O', 'F', 'P')),
    total_amount    numeric(16, 2) NOT NULL CHECK (total_amount >= 0),
    priority        text,
    ordered_on      timestamp,
    remark          text
);
CREATE INDEX ON orders (customer_id);
CREATE INDEX ON orders (sold_by);

CREATE TABLE order_items (
    order_id        bigint NOT NULL REFERENCES orders,
    line_number     integer NOT NULL,
    product_id      bigint NOT NULL REFERENCES products,
    quantity        numeric(12, 2) NOT NULL CHECK (quantity > 0),
    amount          numeric(16, 2) NOT NULL,
    discount        numeric(6, 4) NOT NULL,
    tax             numeric(6, 4) NOT NULL,
    return_flag     text,
    shipped_on      date,
    ship_mode       text,
    remark          text,
    PRIMARY KEY (order_id, line_number)
);
CREATE INDEX ON order_items (product_id);
