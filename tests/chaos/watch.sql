-- Each runner's connections bear its name. The runner that writes about an attempt holds the lease's
-- row until it commits, so what is compared here is what holds when it commits. Any runner may request that
-- a prompt of the pool is taken back.
CREATE TABLE chaos_trespass (at timestamptz, who text, did text, prompt_id text, holder text);
CREATE FUNCTION chaos_watch() RETURNS trigger AS $$
DECLARE
    who text := current_setting('application_name');
    lease jobgroups_lease%ROWTYPE;
BEGIN
    IF who LIKE 'runner-%' THEN
        SELECT * INTO lease FROM jobgroups_lease WHERE backend_id = NEW.backend_id;
        IF TG_OP = 'UPDATE' AND NEW.stop_reason = 'recalled' AND NEW.state = OLD.state THEN
            RETURN NEW;
        END IF;
        IF lease.runner <> who OR (TG_OP = 'INSERT' AND lease.epoch <> NEW.epoch) THEN
            INSERT INTO chaos_trespass
            VALUES (clock_timestamp(), who, TG_OP, NEW.prompt_id, lease.runner || ' ' || lease.epoch);
        END IF;
    END IF;
    RETURN NEW;
END $$ LANGUAGE plpgsql;
CREATE TRIGGER chaos_watch BEFORE INSERT OR UPDATE ON jobgroups_attempt
FOR EACH ROW EXECUTE FUNCTION chaos_watch();
