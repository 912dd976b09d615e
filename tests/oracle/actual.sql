-- What the new shop holds now (schema after), in the shape of expected_<table>: rows that were there before the
-- migration left out by their keys, generated keys replaced by the identity of the row that they lead to.

CREATE VIEW actual_customers AS
SELECT a.customer_id AS new_id, a.email AS identity, a.full_name, a.email, a.phone, a.street_address, a.country_number,
       a.market_segment, a.credit, referrer.email AS referred_by, a.remarks, a.member_since, a.loyalty_points
FROM after.customers AS a
LEFT JOIN after.customers AS referrer ON referrer.customer_id = a.referred_by_id
WHERE NOT EXISTS (SELECT FROM before.customers AS b WHERE b.customer_id = a.customer_id);

CREATE VIEW actual_products AS
SELECT a.product_id AS new_id,
       md5(ROW(title, maker, brand, category, size, packaging, list_price, description)::text) AS identity,
       title, maker, brand, category, size, packaging, list_price, description
FROM after.products AS a
WHERE NOT EXISTS (SELECT FROM before.products AS b WHERE b.product_id = a.product_id);

CREATE VIEW actual_staff AS
SELECT a.staff_id AS new_id, a.work_email AS identity, a.full_name, a.work_email, a.joined_on,
       manager.work_email AS reports_to
FROM after.staff AS a
LEFT JOIN after.staff AS manager ON manager.staff_id = a.reports_to
WHERE NOT EXISTS (SELECT FROM before.staff AS b WHERE b.staff_id = a.staff_id);

CREATE TABLE actual_orders AS
SELECT a.order_id AS new_id,
       md5(ROW(c.email, s.work_email, a.state, a.total_amount, a.priority, a.ordered_on, a.remark)::text) AS identity,
       c.email AS customer, s.work_email AS sold_by, a.state, a.total_amount, a.priority, a.ordered_on, a.remark
FROM after.orders AS a
LEFT JOIN after.customers AS c USING (customer_id)
LEFT JOIN after.staff AS s ON s.staff_id = a.sold_by
WHERE NOT EXISTS (SELECT FROM before.orders AS b WHERE b.order_id = a.order_id);

CREATE VIEW actual_order_items AS
SELECT a.order_id AS new_id, coalesce(o.identity, 'none') || ' line ' || a.line_number AS identity, o.identity AS "order",
       a.line_number, coalesce(p.identity, 'one of the new shop''s own') AS product, a.quantity, a.amount, a.discount, a.tax,
       a.return_flag, a.shipped_on, a.ship_mode, a.remark
FROM after.order_items AS a
LEFT JOIN actual_orders AS o ON o.new_id = a.order_id
LEFT JOIN actual_products AS p ON p.new_id = a.product_id
WHERE NOT EXISTS (
    SELECT FROM before.order_items AS b WHERE b.order_id = a.order_id AND b.line_number = a.line_number
);
