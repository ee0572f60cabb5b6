-- Facts that services lacked: a umask of their own, a run that cannot be looked at, the boot in which a run ended.

-- migrate: up
ALTER TABLE service ADD COLUMN umask TEXT;  -- octal digits; NULL: that of the session which started the daemon
ALTER TABLE service ADD COLUMN unknown_since INTEGER;  -- since when the run cannot be looked at
ALTER TABLE service ADD COLUMN ended_in_boot TEXT;  -- the boot in which the last run ended
-- 250 ms is less than the import of an ordinary program. What a project's file made keeps the file's value: the next
-- apply compares it.
UPDATE service SET start_window_ms = 1000
    WHERE start_window_ms = 250
    AND NOT EXISTS (SELECT 1 FROM settings WHERE key LIKE 'apply.%' AND instr(value, service.id) > 0);

-- migrate: down
ALTER TABLE service DROP COLUMN ended_in_boot;
ALTER TABLE service DROP COLUMN unknown_since;
ALTER TABLE service DROP COLUMN umask;
