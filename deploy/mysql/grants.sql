-- What daymend's three users may do on MySQL 8 and MariaDB: no more than they need.
--
-- Run it as an administrator, in the lab system's database: mariadb DATABASE <grants.sql. It holds no password
-- and can be run again at any time. It has to be after an upgrade, before `daymend migrate`. It creates no
-- user: users.sql does, once. Without the user, a GRANT fails (1133, on MySQL 1410).

-- Where this mode is off, GRANT would create a missing user, without a password. Only MariaDB has the mode, and
-- only MariaDB reads what is in this comment.
SET SESSION sql_mode = CONCAT(@@sql_mode, /*M! ',NO_AUTO_CREATE_USER', */ '');

-- `daymend migrate`: creates tables, and records their version.

GRANT CREATE, SELECT, INSERT ON daymend_schema TO daymend_migrate@'%';
GRANT CREATE, ALTER ON daymend_runs TO daymend_migrate@'%';
GRANT CREATE ON daymend_jobs TO daymend_migrate@'%';
GRANT CREATE ON daymend_attempts TO daymend_migrate@'%';
GRANT CREATE, ALTER ON daymend_workers TO daymend_migrate@'%';
GRANT CREATE ON daymend_labs TO daymend_migrate@'%';
GRANT CREATE ON daymend_migrations TO daymend_migrate@'%';
GRANT CREATE ON daymend_admin_log TO daymend_migrate@'%';
GRANT CREATE ON daymend_pauses TO daymend_migrate@'%';
GRANT CREATE ON daymend_audits TO daymend_migrate@'%';
GRANT CREATE ON daymend_audit_days TO daymend_migrate@'%';
GRANT CREATE ON daymend_audit_labs TO daymend_migrate@'%';
GRANT CREATE ON daymend_dirty TO daymend_migrate@'%';
GRANT CREATE ON daymend_snapshots TO daymend_migrate@'%';
-- The lab system's output tables. The privilege is required even if they exist.
GRANT CREATE ON operation_historical_summary TO daymend_migrate@'%';
GRANT CREATE ON operation_event_log TO daymend_migrate@'%';
GRANT CREATE ON crelio_data_migrations TO daymend_migrate@'%';

-- Everything else that daymend does. First what the SELECTs of jobs/ read of the lab system, by column:
-- no names and no results of patients. LOCK IN SHARE MODE needs no more (except on MySQL before 8.0.22:
-- see README.md).

GRANT SELECT (id, labTimeZone, historicalViewEnabled) ON labs TO daymend@'%';
GRANT SELECT (id, lab_id, billTime, isCancelled) ON billing TO daymend@'%';
GRANT SELECT (billing_id, organization_id, referral_id, branch_id) ON billingInfo TO daymend@'%';
GRANT SELECT (id, department_id) ON allTests TO daymend@'%';
GRANT SELECT (id, billing_id, test_id, isCancelled) ON labReportRelation TO daymend@'%';
GRANT SELECT (billing_id, sampleType_id, isAccessed) ON collectedSample TO daymend@'%';

-- Its own tables. They may not exist yet, and privileges on such a table can only be granted together
-- with CREATE, which is revoked at once. Nobody with these privileges can change or delete entries of
-- the admin log.

GRANT CREATE, SELECT ON daymend_schema TO daymend@'%';
REVOKE CREATE ON daymend_schema FROM daymend@'%';
GRANT CREATE, SELECT, INSERT, UPDATE, DELETE ON daymend_runs TO daymend@'%';
REVOKE CREATE ON daymend_runs FROM daymend@'%';
GRANT CREATE, SELECT, INSERT, UPDATE, DELETE ON daymend_jobs TO daymend@'%';
REVOKE CREATE ON daymend_jobs FROM daymend@'%';
GRANT CREATE, SELECT, INSERT, DELETE ON daymend_attempts TO daymend@'%';
REVOKE CREATE ON daymend_attempts FROM daymend@'%';
GRANT CREATE, SELECT, INSERT, UPDATE, DELETE ON daymend_workers TO daymend@'%';
REVOKE CREATE ON daymend_workers FROM daymend@'%';
GRANT CREATE, SELECT, INSERT, UPDATE ON daymend_labs TO daymend@'%';
REVOKE CREATE ON daymend_labs FROM daymend@'%';
GRANT CREATE, SELECT, INSERT, DELETE ON daymend_migrations TO daymend@'%';
REVOKE CREATE ON daymend_migrations FROM daymend@'%';
GRANT CREATE, SELECT, INSERT ON daymend_admin_log TO daymend@'%';
REVOKE CREATE ON daymend_admin_log FROM daymend@'%';
GRANT CREATE, SELECT, INSERT, DELETE ON daymend_pauses TO daymend@'%';
REVOKE CREATE ON daymend_pauses FROM daymend@'%';
GRANT CREATE, SELECT, INSERT, UPDATE, DELETE ON daymend_audits TO daymend@'%';
REVOKE CREATE ON daymend_audits FROM daymend@'%';
GRANT CREATE, SELECT, INSERT, DELETE ON daymend_audit_days TO daymend@'%';
REVOKE CREATE ON daymend_audit_days FROM daymend@'%';
GRANT CREATE, SELECT, INSERT, UPDATE, DELETE ON daymend_audit_labs TO daymend@'%';
REVOKE CREATE ON daymend_audit_labs FROM daymend@'%';
GRANT CREATE, SELECT, INSERT, DELETE ON daymend_dirty TO daymend@'%';
REVOKE CREATE ON daymend_dirty FROM daymend@'%';
GRANT CREATE, SELECT, INSERT, UPDATE ON daymend_snapshots TO daymend@'%';
REVOKE CREATE ON daymend_snapshots FROM daymend@'%';

-- The three tables of the lab system that daymend writes to. Columns can only be granted of tables that
-- exist: if these do not, run `daymend migrate` once this point has been reached, and the file once
-- more. Only `daymend doctor` reads the event log, and when a record was modified.

GRANT SELECT, INSERT, DELETE, UPDATE (event_count, modified_at)
    ON operation_historical_summary TO daymend@'%';
GRANT SELECT (id, event_name, status, created_at), INSERT (event_name, status, created_at)
    ON operation_event_log TO daymend@'%';
GRANT SELECT (id, lab_id, is_scheduled, job_status, initiated_by_id, migration_type, modified_at),
    INSERT (lab_id, is_scheduled, job_status, initiated_by_id, migration_type, created_at, modified_at),
    UPDATE (is_scheduled, start_date, end_date, job_status, time_taken, modified_at)
    ON crelio_data_migrations TO daymend@'%';

SHOW GRANTS FOR daymend_migrate@'%';
SHOW GRANTS FOR daymend@'%';

-- `daymend snapshot take`, by hand and daily: whole tables, including names and results of patients. It
-- writes nothing. If snapshots are to have other tables, name them here; `--all` needs SELECT on the
-- whole database (GRANT SELECT ON * TO …), because MySQL hides what a user has no privilege on. This section
-- comes last: where no snapshots are taken and this user does not exist, the file ends here.

GRANT SELECT ON labs TO daymend_snapshot@'%';
GRANT SELECT ON billing TO daymend_snapshot@'%';
GRANT SELECT ON billingInfo TO daymend_snapshot@'%';
GRANT SELECT ON allTests TO daymend_snapshot@'%';
GRANT SELECT ON labReportRelation TO daymend_snapshot@'%';
GRANT SELECT ON collectedSample TO daymend_snapshot@'%';
GRANT CREATE, SELECT ON operation_historical_summary TO daymend_snapshot@'%';
REVOKE CREATE ON operation_historical_summary FROM daymend_snapshot@'%';
GRANT CREATE, SELECT ON crelio_data_migrations TO daymend_snapshot@'%';
REVOKE CREATE ON crelio_data_migrations FROM daymend_snapshot@'%';

SHOW GRANTS FOR daymend_snapshot@'%';
