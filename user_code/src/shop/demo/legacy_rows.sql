-- From the generator's rows to a shop with a past: derived columns, references, dirt. No clock and no random number
-- is used, so the same scale always gives the same rows.
--
-- Dirt is dealt out by position. The rows of a table are numbered 1..n and cut into stretches of equal length
-- (about one stretch for 1000 rows, at least five); a row's place in its stretch, its slot, says what is wrong
-- with it, and the number of the stretch chooses between variants. Slot 0 and most other slots are clean.

CREATE FUNCTION pg_temp.stretch(n bigint) RETURNS bigint IMMUTABLE
RETURN greatest(n / greatest(n / 1000, 5), 20);

-- Text that breaks naive loaders. All of it is valid and has to arrive as it is.
CREATE TEMPORARY TABLE wild (variant integer GENERATED ALWAYS AS IDENTITY (START 0 MINVALUE 0), value text);
INSERT INTO wild (value) VALUES
    (E'O''Brien said "no", twice: ""no""'),
    (E'"'), (E''''), (E'\\'), (E'\\N'), (E'\\.'), (E'a line\n\\.\nand one after it'),
    (E'C:\\new\\table\\x41\\t'),
    (E'tab\there\tand\tthere\t'),
    (E'CRLF\r\nthen LF\nthen CR\rend'), (E'\r\n'), (E'\n'),
    (E'emoji 👩‍👩‍👧‍👦 🏴‍☠️ 🇪🇺 and a plane-two ideograph 𠮷'),
    (E'مرحبا بالعالم، שלום עולם \u202eright to left\u202c \u200f'),
    (E'n\u0303 is not ñ, \u00a0no-break, zero\u200bwidth, \ufeffmark, line\u2028separator, \ufffd'),
    (E'control \x01\x02\x07\x08\x0b\x0c\x1b\x1f\x7f end'),
    (E'  leading and trailing  '), (E''), (E' '),
    (E'NULL'), (E'NaN'), (E'null, "none", 0, f'),
    (E'a;b,c|d\te'),
    (E'''); DROP TABLE orders; --'),
    (E'%s %(name)s {0} {{x}} ${HOME} $1 :id ?'),
    (E'=1+1'), (E'<b>&amp;</b>'), (E'{"json": [1, "two", null]}'), (E'{1,"a b",NULL}'),
    (repeat(E'ten kilobytes of \\ and " and 日本 ', 320)),
    (repeat(E'🚢\n', 5000));

CREATE FUNCTION pg_temp.wild(n bigint) RETURNS text STABLE
RETURN (SELECT value FROM wild WHERE variant = n % (SELECT count(*) FROM wild));

-- Rows with such text: about 90 a table, so that each text occurs at every scale.
CREATE FUNCTION pg_temp.is_wild(place bigint, n bigint) RETURNS boolean IMMUTABLE
RETURN place % greatest(n / 90, 1) = 0;


INSERT INTO customers
SELECT
    key,
    CASE
        WHEN slot = 2 THEN NULL
        WHEN slot = 7 THEN left(pg_temp.wild(stretch % 17), 60) || ' & Söhne'
        ELSE name
    END,
    CASE
        WHEN slot IN (1, 11) THEN (ARRAY['not an address', 'two@@mail.example.com', 'no-domain@', '@mail.example.com',
            'double..dot@mail.example.com', 'customer@intranet', 'blank @mail.example.com', ''])[1 + stretch % 8]
        WHEN slot = 10 THEN NULL
        WHEN slot = 16 THEN 'Customer.' || key || '+Shop@Mail.Example.COM'
        WHEN slot = 18 THEN 'jörg.' || key || '@bücher.example.com'
        ELSE 'customer.' || key || '@mail.example.com'
    END,
    phone,
    address,
    nation,
    CASE WHEN slot = 17 THEN (ARRAY['SPACESHIPS', 'building', ''])[1 + stretch % 3] ELSE segment END,
    balance,
    CASE
        WHEN slot = 8 THEN key + 100000000          -- nobody has this key
        WHEN slot = 13 THEN key - 12                -- slot 1: a customer who will be rejected
        WHEN slot = 14 THEN key + 1                 -- the very next row
        WHEN slot = 15 THEN key                     -- himself
        WHEN key % 3 = 0 THEN 1 + (key * 7919::bigint + 13) % n
    END,
    CASE
        WHEN pg_temp.is_wild(key, n) THEN pg_temp.wild(key / greatest(n / 90, 1))
        WHEN key % 10 = 0 THEN NULL
        ELSE comment
    END,
    'export ' || key % 7,
    timestamp '1992-01-01' + (key * 37::bigint % 60000) * interval '1 hour 0.001 seconds',
    timestamptz '1999-01-01 00:00:00+00' + key % 86400 * interval '1 second'
FROM (
    SELECT raw_customer.*, n, (key % pg_temp.stretch(n))::integer AS slot, (key / pg_temp.stretch(n))::integer AS stretch
    FROM raw_customer, (SELECT count(*) AS n FROM raw_customer) AS counted
) AS placed
ORDER BY key;

-- The import of 1996: the same customer again, with another name. One of slot 11's two addresses is unusable too,
-- but the double key is what the row is rejected for.
INSERT INTO customers
SELECT id, name || ' (1996)', email, phone, street, nation, segment, balance + 1, referred_by, notes, crm_export,
       created_at, updated_at - interval '3 years'
FROM customers, (SELECT count(*) AS n FROM raw_customer) AS counted
WHERE id % pg_temp.stretch(n) IN (4, 11)
ORDER BY id;


INSERT INTO products
SELECT
    key,
    CASE WHEN slot = 2 THEN NULL ELSE name END,
    manufacturer,
    brand,
    kind,
    size,
    container,
    CASE WHEN slot = 1 THEN -price WHEN slot = 5 THEN 0.01 ELSE price END,
    CASE WHEN pg_temp.is_wild(key, n) THEN pg_temp.wild(key / greatest(n / 90, 1)) ELSE comment END,
    timestamptz '1999-01-01 00:00:00+00' + key % 86400 * interval '1 second'
FROM (
    SELECT raw_part.*, n, (key % pg_temp.stretch(n))::integer AS slot
    FROM raw_part, (SELECT count(*) AS n FROM raw_part) AS counted
) AS placed
ORDER BY key;


-- The generator knows clerks only by the number in their name. Of the people in a shuffled list of them, the
-- first is the boss and each of the others reports to the one at an eighth of his place: nobody reports to
-- himself over any number of steps, and half of the managers have a higher number.
INSERT INTO employees
SELECT
    id,
    CASE WHEN slot = 1 THEN NULL WHEN slot = 7 THEN left(pg_temp.wild(id), 60) || ' clerk' ELSE 'Clerk ' || id END,
    CASE WHEN slot = 2 THEN 'clerk ' || id ELSE 'clerk.' || id || '@staff.example.com' END,
    date '1985-01-01' + id * 7 % 2500,
    30000 + id % 500 * 10,
    CASE
        WHEN slot = 4 THEN id + 100000000           -- nobody has this key
        WHEN slot = 5 THEN id - 4                   -- slot 1: an employee who will be rejected
        ELSE manager
    END,
    timestamptz '1999-01-01 00:00:00+00'
FROM (
    SELECT e.id, m.id AS manager, (e.id % pg_temp.stretch(n))::integer AS slot
    FROM (
        SELECT id, n, row_number() OVER (ORDER BY md5(id::text)) AS place
        FROM (SELECT max(split_part(clerk, '#', 2)::integer) AS n FROM raw_orders) AS counted,
             generate_series(1, n) AS id
    ) AS e
    LEFT JOIN (
        SELECT id, row_number() OVER (ORDER BY md5(id::text)) AS place
        FROM (SELECT max(split_part(clerk, '#', 2)::integer) AS n FROM raw_orders) AS counted,
             generate_series(1, n) AS id
    ) AS m ON m.place = e.place / 8
) AS placed
ORDER BY id;


-- Of every 32 keys the generator uses 8, so the number of a row follows from its key.
CREATE FUNCTION pg_temp.place(order_key bigint) RETURNS bigint IMMUTABLE
RETURN order_key / 32 * 8 + order_key % 8;

INSERT INTO orders
SELECT
    key,
    CASE WHEN slot IN (1, 8) THEN customer + 100000000 WHEN slot = 15 THEN NULL ELSE customer END,
    CASE WHEN slot = 9 THEN 100000000 WHEN slot = 11 THEN NULL ELSE split_part(clerk, '#', 2)::integer END,
    CASE WHEN slot = 4 THEN (ARRAY['X', 'o', '?'])[1 + stretch % 3] ELSE status END,
    CASE
        WHEN slot IN (2, 8) THEN -total
        WHEN slot = 3 THEN NULL
        WHEN slot = 14 THEN (ARRAY[0, 999999999999.99, 0.01])[1 + stretch % 3]
        ELSE total
    END,
    priority,
    CASE
        WHEN slot = 5 THEN (ARRAY[timestamp '1899-12-30', '1970-01-01', '1991-12-31 23:59:59.999999',
            '0001-01-01'])[1 + stretch % 4]
        WHEN slot = 6 THEN (ARRAY[timestamp '2031-05-05 05:05:05', '9999-12-31 23:59:59.999999',
            '1999-01-01'])[1 + stretch % 3]
        WHEN slot = 7 THEN NULL
        WHEN slot = 12 AND stretch % 2 = 0 THEN date_trunc('month', day)
        WHEN slot = 12 THEN date_trunc('month', day) + interval '1 month' - interval '1 microsecond'
        ELSE day + (key * 7919 % 86400) * interval '1 second' + (key % 1000) * interval '1 microsecond'
    END,
    CASE
        WHEN pg_temp.is_wild(place, n) THEN pg_temp.wild(place / greatest(n / 90, 1))
        WHEN slot = 16 THEN ''
        WHEN slot = 17 THEN NULL
        ELSE comment
    END,
    (day + (key * 7919 % 86400) * interval '1 second') AT TIME ZONE 'UTC'
FROM (
    SELECT raw_orders.*, place, n, (place % pg_temp.stretch(n))::integer AS slot,
           (place / pg_temp.stretch(n))::integer AS stretch
    FROM raw_orders, (SELECT count(*) AS n FROM raw_orders) AS counted, LATERAL (SELECT pg_temp.place(key)) AS p (place)
) AS placed
ORDER BY key;


CREATE TEMPORARY TABLE chosen AS
SELECT key, slot, stretch, CASE WHEN is_wild THEN pg_temp.wild(place / greatest(n / 90, 1)) END AS wild
FROM (
    SELECT key, place, n, (place % pg_temp.stretch(n))::integer AS slot,
           (place / pg_temp.stretch(n))::integer AS stretch, pg_temp.is_wild(place, n) AS is_wild
    FROM raw_orders, (SELECT count(*) AS n FROM raw_orders) AS counted, LATERAL (SELECT pg_temp.place(key)) AS p (place)
) AS placed
WHERE is_wild OR slot IN (2, 13, 14, 16, 17, 18, 19);

UPDATE order_lines SET
    product_id = CASE
        WHEN slot IN (2, 18) THEN product_id + 100000000    -- of slot 2 the order is rejected as well
        WHEN slot = 17 THEN NULL
        ELSE product_id
    END,
    quantity = CASE WHEN slot = 19 THEN -(stretch % 2) ELSE quantity END,
    price = CASE WHEN slot = 16 THEN -price ELSE price END,
    discount = CASE WHEN slot = 14 THEN 1.5 ELSE discount END,
    comment = coalesce(wild, comment)
FROM chosen
WHERE order_id = key AND line_number = 1;

-- Lines without an order: the generator never uses the keys in the second quarter of each 32.
INSERT INTO order_lines
SELECT key / 32 * 32 + 20, product_id, supplier_id, line_number, quantity, l.price, discount, tax, return_flag, status,
       shipped_on, committed_on, received_on, instructions, ship_mode, comment
FROM chosen JOIN order_lines AS l ON order_id = key
WHERE slot = 13
ORDER BY 1, 4;


ALTER TABLE products ADD PRIMARY KEY (id);
ALTER TABLE employees ADD PRIMARY KEY (id);
ALTER TABLE orders ADD PRIMARY KEY (id);
ALTER TABLE order_lines ADD PRIMARY KEY (order_id, line_number);
CREATE INDEX ON customers (id);
CREATE INDEX ON orders (placed_at);

-- From here on the shop's own programs keep updated_at, as the sensor on it expects.
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := clock_timestamp();
    RETURN NEW;
END
$$;
CREATE TRIGGER touch BEFORE UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION touch();
CREATE TRIGGER touch BEFORE UPDATE ON products FOR EACH ROW EXECUTE FUNCTION touch();
CREATE TRIGGER touch BEFORE UPDATE ON employees FOR EACH ROW EXECUTE FUNCTION touch();
CREATE TRIGGER touch BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION touch();
CREATE TRIGGER touch BEFORE UPDATE ON order_lines FOR EACH ROW EXECUTE FUNCTION touch();
