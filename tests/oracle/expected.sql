-- What a settled first migration of the shop must give, in plain SQL over copies of both databases: schema legacy
-- (the old shop) and schema before (the new shop before the migration). It shares no code with the engine; the rules
-- below are written a second time on purpose.
--
-- judged_<entity>: one row a source row, with `rules` (the contract's rules that it breaks) and `reason` (the first of
-- duplicate_key, contract, missing_parent, parent_rejected that applies; NULL if the row is accepted).
-- expected_<table>: the rows that must be inserted, without generated keys. A reference is given as the natural
-- identity of the row that it must lead to.

CREATE FUNCTION usable(email text) RETURNS boolean IMMUTABLE
RETURN email ~ '^[^\s@]+@([[:alnum:]-]+\.)+[[:alpha:]]{2,}$' AND email !~ '\.\.|\.@|^\.';

CREATE FUNCTION broken(VARIADIC rules text[]) RETURNS text[] IMMUTABLE
RETURN array_remove(rules, NULL);


CREATE TABLE judged_customers AS
SELECT *, CASE WHEN twice THEN 'duplicate_key' WHEN rules <> '{}' THEN 'contract' END AS reason
FROM (
    SELECT *,
        count(*) OVER (PARTITION BY id) > 1 AS twice,
        broken(
            CASE WHEN name IS NULL THEN 'name: string_type' WHEN name = '' THEN 'name: string_too_short' END,
            CASE WHEN email IS NULL THEN 'email: string_type' WHEN NOT usable(email) THEN 'email: value_error' END,
            CASE WHEN segment IS NULL
                OR segment NOT IN ('AUTOMOBILE', 'BUILDING', 'FURNITURE', 'HOUSEHOLD', 'MACHINERY')
                THEN 'segment: literal_error' END,
            CASE WHEN balance IS NULL THEN 'balance: is_instance_of' END
        ) AS rules
    FROM legacy.customers
) AS ruled;
CREATE INDEX ON judged_customers (id);

CREATE TABLE judged_products AS
SELECT *, CASE WHEN rules <> '{}' THEN 'contract' END AS reason
FROM (
    SELECT *,
        broken(
            CASE WHEN name IS NULL THEN 'name: string_type' WHEN name = '' THEN 'name: string_too_short' END,
            CASE WHEN price IS NULL THEN 'price: is_instance_of' WHEN price <= 0 THEN 'price: greater_than' END,
            CASE WHEN size IS NULL THEN 'size: int_type' WHEN size < 1 THEN 'size: greater_than_equal'
                 WHEN size > 50 THEN 'size: less_than_equal' END
        ) AS rules
    FROM legacy.products
) AS ruled;
CREATE INDEX ON judged_products (id);

CREATE TABLE judged_employees AS
SELECT *, CASE WHEN rules <> '{}' THEN 'contract' END AS reason
FROM (
    SELECT *,
        broken(
            CASE WHEN name IS NULL THEN 'name: string_type' WHEN name = '' THEN 'name: string_too_short' END,
            CASE WHEN email IS NULL THEN 'email: string_type' WHEN NOT usable(email) THEN 'email: value_error' END,
            CASE WHEN hired_on IS NULL THEN 'hired_on: date_type' END
        ) AS rules
    FROM legacy.employees
) AS ruled;
CREATE INDEX ON judged_employees (id);

CREATE TABLE judged_orders AS
SELECT *,
    CASE
        WHEN rules <> '{}' THEN 'contract'
        WHEN NOT EXISTS (SELECT FROM legacy.customers AS c WHERE c.id = customer_id) THEN 'missing_parent'
        WHEN NOT EXISTS (SELECT FROM judged_customers AS c WHERE c.id = customer_id AND c.reason IS NULL)
            THEN 'parent_rejected'
    END AS reason
FROM (
    SELECT *,
        broken(
            CASE WHEN customer_id IS NULL THEN 'customer_id: int_type' END,
            CASE WHEN status IS NULL OR status NOT IN ('O', 'F', 'P') THEN 'status: literal_error' END,
            CASE WHEN total IS NULL THEN 'total: is_instance_of' WHEN total < 0 THEN 'total: greater_than_equal' END,
            CASE WHEN placed_at < '1992-01-01' THEN 'placed_at: greater_than_equal'
                 WHEN placed_at >= '1999-01-01' THEN 'placed_at: less_than' END
        ) AS rules
    FROM legacy.orders
) AS ruled;
CREATE INDEX ON judged_orders (id);

CREATE TABLE judged_order_lines AS
SELECT ruled.*,
    CASE
        WHEN ruled.rules <> '{}' THEN 'contract'
        WHEN o.id IS NULL OR p.id IS NULL THEN 'missing_parent'
        WHEN o.reason IS NOT NULL OR p.reason IS NOT NULL THEN 'parent_rejected'
    END AS reason
FROM (
    SELECT *,
        broken(
            CASE WHEN product_id IS NULL THEN 'product_id: int_type' END,
            CASE WHEN quantity IS NULL THEN 'quantity: is_instance_of' WHEN quantity <= 0 THEN 'quantity: greater_than' END,
            CASE WHEN price IS NULL THEN 'price: is_instance_of' WHEN price < 0 THEN 'price: greater_than_equal' END,
            CASE WHEN discount IS NULL THEN 'discount: is_instance_of' WHEN discount < 0 THEN 'discount: greater_than_equal'
                 WHEN discount > 1 THEN 'discount: less_than_equal' END
        ) AS rules
    FROM legacy.order_lines
) AS ruled
LEFT JOIN judged_orders AS o ON o.id = order_id
LEFT JOIN judged_products AS p ON p.id = product_id;


-- An address identifies a customer and a clerk. Articles and orders have nothing of that kind in the new shop, so
-- their whole content does, the parents' identities included; two that agree in all of it are interchangeable.

CREATE TABLE expected_customers AS
SELECT c.id AS old_id, c.email AS identity, c.name AS full_name, c.email, c.phone, c.street AS street_address,
       c.nation AS country_number, c.segment AS market_segment, c.balance::numeric(18, 2) AS credit,
       referrer.email AS referred_by, c.notes AS remarks, c.created_at AS member_since, 0 AS loyalty_points
FROM judged_customers AS c
LEFT JOIN judged_customers AS referrer ON referrer.id = c.referred_by AND referrer.reason IS NULL
WHERE c.reason IS NULL AND NOT EXISTS (SELECT FROM before.customers AS b WHERE b.email = c.email);

CREATE TABLE expected_products AS
SELECT id AS old_id,
       md5(ROW(name, manufacturer, brand, kind, size::integer, container, price::numeric(14, 4), description)::text)
           AS identity,
       name AS title, manufacturer AS maker, brand, kind AS category, size::integer, container AS packaging,
       price::numeric(14, 4) AS list_price, description
FROM judged_products
WHERE reason IS NULL;
CREATE UNIQUE INDEX ON expected_products (old_id);

CREATE TABLE expected_staff AS
SELECT e.id AS old_id, e.email AS identity, e.name AS full_name, e.email AS work_email, e.hired_on AS joined_on,
       manager.email AS reports_to
FROM judged_employees AS e
LEFT JOIN judged_employees AS manager ON manager.id = e.manager_id AND manager.reason IS NULL
WHERE e.reason IS NULL;

CREATE TABLE expected_orders AS
SELECT o.id AS old_id,
       md5(ROW(c.email, e.email, o.status::text, o.total::numeric(16, 2), o.priority, o.placed_at, o.comment)::text)
           AS identity,
       c.email AS customer, e.email AS sold_by, o.status::text AS state, o.total::numeric(16, 2) AS total_amount,
       o.priority, o.placed_at AS ordered_on, o.comment AS remark
FROM judged_orders AS o
JOIN judged_customers AS c ON c.id = o.customer_id AND c.reason IS NULL
LEFT JOIN judged_employees AS e ON e.id = o.employee_id AND e.reason IS NULL
WHERE o.reason IS NULL;
CREATE UNIQUE INDEX ON expected_orders (old_id);

CREATE TABLE expected_order_items AS
SELECT l.order_id AS old_id, o.identity || ' line ' || l.line_number AS identity, o.identity AS "order",
       l.line_number::integer, p.identity AS product, l.quantity, l.price::numeric(16, 2) AS amount,
       l.discount::numeric(6, 4), l.tax::numeric(6, 4), l.return_flag::text, l.shipped_on, l.ship_mode, l.comment AS remark
FROM judged_order_lines AS l
JOIN expected_orders AS o ON o.old_id = l.order_id
JOIN expected_products AS p ON p.old_id = l.product_id
WHERE l.reason IS NULL;


-- Every row of the old shop has one outcome. Nothing was migrated before, so nothing is updated or unchanged, and in
-- a settled migration nothing waits.
CREATE VIEW outcomes AS
SELECT entity, count(*) AS extracted, count(*) FILTER (WHERE reason IS NULL AND NOT known) AS inserted,
       count(*) FILTER (WHERE reason IS NULL AND known) AS preserved, count(*) FILTER (WHERE reason IS NOT NULL) AS rejected
FROM (
    SELECT 'customers' AS entity, reason, EXISTS (SELECT FROM before.customers AS b WHERE b.email = c.email) AS known
    FROM judged_customers AS c
    UNION ALL SELECT 'products', reason, false FROM judged_products
    UNION ALL SELECT 'employees', reason, false FROM judged_employees
    UNION ALL SELECT 'orders', reason, false FROM judged_orders
    UNION ALL SELECT 'order_lines', reason, false FROM judged_order_lines
) AS judged
GROUP BY entity;

CREATE VIEW rejected AS
SELECT 'customers' AS entity, ARRAY[id::text] AS key, reason, rules FROM judged_customers WHERE reason IS NOT NULL
UNION ALL SELECT 'products', ARRAY[id::text], reason, rules FROM judged_products WHERE reason IS NOT NULL
UNION ALL SELECT 'employees', ARRAY[id::text], reason, rules FROM judged_employees WHERE reason IS NOT NULL
UNION ALL SELECT 'orders', ARRAY[id::text], reason, rules FROM judged_orders WHERE reason IS NOT NULL
UNION ALL SELECT 'order_lines', ARRAY[order_id::text, line_number::text], reason, rules
FROM judged_order_lines WHERE reason IS NOT NULL;
