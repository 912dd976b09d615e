-- What the new shop sold before the migration. demo.customers is the number of customers that the generator made;
-- those in slot 5 of their stretch (see legacy_rows.sql) have opened an account here already, under the same e-mail
-- address. Their rows, like all others here, belong to the new shop and stay as they are.

INSERT INTO customers (full_name, email, phone, street_address, country_number, market_segment, credit, remarks,
                       member_since, loyalty_points)
SELECT 'Walk-in customer ' || i, 'walk-in.' || i || '@new.example.com', NULL, i || ' Harbour Road', 100 + i, 'BUILDING',
       i * 1.25, 'first seen in the new shop', timestamp '1998-11-01' + i * interval '1 day', i
FROM generate_series(1, 12) AS i;

INSERT INTO customers (full_name, email, phone, street_address, country_number, market_segment, credit, remarks,
                       member_since, loyalty_points)
SELECT 'Regular customer ' || key, 'customer.' || key || '@mail.example.com', '555-' || key, 'Quay ' || key, 200,
       'HOUSEHOLD', 10, 'opened an account by himself', timestamp '1998-12-01 08:00:00', 50
FROM (SELECT greatest(n / greatest(n / 1000, 5), 20) AS stretch, n
      FROM (SELECT current_setting('demo.customers')::bigint AS n) AS setting) AS counted,
     generate_series(5, n, stretch) AS key
ORDER BY key;

UPDATE customers SET referred_by_id = customer_id - 1 WHERE customer_id % 4 = 0;

INSERT INTO products (title, maker, brand, category, size, packaging, list_price, description)
SELECT 'Novelty ' || i, 'Manufacturer#9', 'Brand#99', 'NEW IN STORE', i, 'GIFT BOX', 9.9999 + i, NULL
FROM generate_series(1, 5) AS i;

INSERT INTO staff (full_name, work_email, joined_on, reports_to)
VALUES ('The new manager', 'manager@new.example.com', '1998-10-01', NULL),
       ('The first clerk', 'first@new.example.com', '1998-11-01', 1),
       ('The second clerk', 'second@new.example.com', '1998-12-01', 1);

INSERT INTO orders (customer_id, sold_by, state, total_amount, priority, ordered_on, remark)
SELECT 1 + i % 12, 1 + i % 3, 'O', i * 10, '3-MEDIUM', timestamp '1998-11-15 12:00:00' + i * interval '1 hour', NULL
FROM generate_series(1, 10) AS i;

INSERT INTO order_items (order_id, line_number, product_id, quantity, amount, discount, tax, shipped_on, ship_mode)
SELECT o, line, 1 + (o + line) % 5, line, 10 * line, 0, 0.2, date '1998-11-20', 'SHIP'
FROM generate_series(1, 10) AS o, generate_series(1, 2) AS line;
