-- A migration by hand: the oracle's own expectation written into the new shop, to see that the oracle approves of it.
-- Runs in the new shop; schema expected holds copies of the oracle's expected_<table>.

INSERT INTO customers (full_name, email, phone, street_address, country_number, market_segment, credit, remarks,
                       member_since, loyalty_points)
SELECT full_name, email, phone, street_address, country_number, market_segment, credit, remarks, member_since,
       loyalty_points
FROM expected.expected_customers ORDER BY md5(email);
UPDATE customers AS c SET referred_by_id = r.customer_id
FROM expected.expected_customers AS e JOIN customers AS r ON r.email = e.referred_by WHERE c.email = e.email;

INSERT INTO staff (full_name, work_email, joined_on)
SELECT full_name, work_email, joined_on FROM expected.expected_staff ORDER BY md5(work_email);
UPDATE staff AS s SET reports_to = m.staff_id
FROM expected.expected_staff AS e JOIN staff AS m ON m.work_email = e.reports_to WHERE s.work_email = e.work_email;

CREATE TEMPORARY TABLE new_products AS
SELECT nextval('products_product_id_seq') AS product_id, * FROM expected.expected_products;
INSERT INTO products OVERRIDING SYSTEM VALUE
SELECT product_id, title, maker, brand, category, size, packaging, list_price, description FROM new_products;

CREATE TEMPORARY TABLE new_orders AS
SELECT nextval('orders_order_id_seq') AS order_id, * FROM expected.expected_orders;
INSERT INTO orders OVERRIDING SYSTEM VALUE
SELECT order_id, customer_id, staff_id, state, total_amount, n.priority, ordered_on, remark
FROM new_orders AS n JOIN customers AS c ON c.email = n.customer LEFT JOIN staff AS s ON s.work_email = n.sold_by;

INSERT INTO order_items
SELECT order_id, line_number, product_id, quantity, amount, discount, tax, return_flag, shipped_on, ship_mode, i.remark
FROM expected.expected_order_items AS i JOIN new_orders AS o ON o.identity = i."order"
JOIN new_products AS p ON p.identity = i.product;

DROP SCHEMA expected CASCADE;
