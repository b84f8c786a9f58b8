-- What is virtual stands in the search path before pg_catalog, and behind public, where CREATE TABLE
-- lands. Functions written in SQL are inlined: plans and names of columns are those of the real ones.
CREATE SCHEMA sim;

-- The size of a file is the clock (server.py): microseconds since the day before all runs begin.
CREATE FUNCTION sim.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$
  SELECT timestamptz '2025-12-31 00:00:00+00'
    + (pg_catalog.pg_stat_file('simulated_clock')).size * interval '1 microsecond' $$;

-- Unlike the real ones these go on within a transaction.
CREATE FUNCTION sim.now() RETURNS timestamptz LANGUAGE sql VOLATILE AS
  'SELECT sim.clock_timestamp()';
CREATE FUNCTION sim.statement_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
  'SELECT sim.clock_timestamp()';
CREATE FUNCTION sim.transaction_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
  'SELECT sim.clock_timestamp()';

CREATE SEQUENCE sim.entropy;
CREATE FUNCTION sim.gen_random_uuid() RETURNS uuid LANGUAGE sql VOLATILE AS $$
  SELECT overlay(overlay(md5('sim' || nextval('sim.entropy')) placing '4' from 13)
    placing '8' from 17)::uuid $$;
CREATE FUNCTION sim.random() RETURNS float8 LANGUAGE sql VOLATILE AS $$
  SELECT ('x' || left(md5('sim' || nextval('sim.entropy')), 13))::bit(52)::bigint
    / 4503599627370496.0::float8 $$;

-- The process id that the client of this connection was given (connection.py).
CREATE FUNCTION sim.pg_backend_pid() RETURNS int LANGUAGE sql STABLE AS $$
  SELECT COALESCE(current_setting('sim.backend_pid', true)::int, pg_catalog.pg_backend_pid()) $$;

CREATE FUNCTION sim.refuse(what text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
  RAISE EXCEPTION 'NotSimulated: % over the simulated wire; use INSERT, SELECT or Redis', what
    USING ERRCODE = 'feature_not_supported'; END $$;

-- As freshly migrated. Handlers may have tables of their own.
CREATE FUNCTION sim.reset() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
  EXECUTE (SELECT 'TRUNCATE ' || string_agg(format('%I.%I', schemaname, tablename), ', ')
    || ' RESTART IDENTITY' FROM pg_tables
    WHERE schemaname IN ('public', 'holdfast') AND tablename <> 'alembic_version');
  ALTER SEQUENCE sim.entropy RESTART; END $$;

ALTER DATABASE holdfast SET search_path = public, sim, pg_catalog;
