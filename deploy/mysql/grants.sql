-- The three users of daymend on MySQL 8 and MariaDB, with no more privileges than they need.
--
-- Replace five things, then run the file as an administrator; README.md beside it has the commands. The
-- file can be run again at any time, and has to be after an upgrade, before `daymend migrate`.
--   `lab`                 the lab system's database
--   '%'                   the hosts that the users may come from
--   'CHANGE_ME_MIGRATE'   three passwords
--   'CHANGE_ME_RUN_TIME'
--   'CHANGE_ME_SNAPSHOT'  (leave the third user out where no snapshots are taken)

CREATE USER IF NOT EXISTS daymend_migrate@'%' IDENTIFIED BY 'CHANGE_ME_MIGRATE';
CREATE USER IF NOT EXISTS daymend@'%' IDENTIFIED BY 'CHANGE_ME_RUN_TIME';
CREATE USER IF NOT EXISTS daymend_snapshot@'%' IDENTIFIED BY 'CHANGE_ME_SNAPSHOT';

-- `daymend migrate`: creates tables, and records their version.

GRANT CREATE, SELECT, INSERT ON `lab`.daymend_schema TO daymend_migrate@'%';
GRANT CREATE, ALTER ON `lab`.daymend_runs TO daymend_migrate@'%';
GRANT CREATE ON `lab`.daymend_jobs TO daymend_migrate@'%';
GRANT CREATE ON `lab`.daymend_attempts TO daymend_migrate@'%';
GRANT CREATE, ALTER ON `lab`.daymend_workers TO daymend_migrate@'%';
GRANT CREATE ON `lab`.daymend_labs TO daymend_migrate@'%';
GRANT CREATE ON `lab`.daymend_migrations TO daymend_migrate@'%';
GRANT CREATE ON `lab`.daymend_admin_log TO daymend_migrate@'%';
GRANT CREATE ON `lab`.daymend_pauses TO daymend_migrate@'%';
GRANT CREATE ON `lab`.daymend_audits TO daymend_migrate@'%';
GRANT CREATE ON `lab`.daymend_audit_days TO daymend_migrate@'%';
GRANT CREATE ON `lab`.daymend_audit_labs TO daymend_migrate@'%';
GRANT CREATE ON `lab`.daymend_dirty TO daymend_migrate@'%';
GRANT CREATE ON `lab`.daymend_snapshots TO daymend_migrate@'%';
-- The lab system's output tables. The privilege is required even if they exist.
GRANT CREATE ON `lab`.operation_historical_summary TO daymend_migrate@'%';
GRANT CREATE ON `lab`.operation_event_log TO daymend_migrate@'%';
GRANT CREATE ON `lab`.crelio_data_migrations TO daymend_migrate@'%';

-- Everything else that daymend does. First what the SELECTs of jobs/ read of the lab system, by column:
-- no names and no results of patients. LOCK IN SHARE MODE needs no more (except on MySQL before 8.0.22:
-- see README.md).

GRANT SELECT (id, labTimeZone, historicalViewEnabled) ON `lab`.labs TO daymend@'%';
GRANT SELECT (id, lab_id, billTime, isCancelled) ON `lab`.billing TO daymend@'%';
GRANT SELECT (billing_id, organization_id, referral_id, branch_id) ON `lab`.billingInfo TO daymend@'%';
GRANT SELECT (id, department_id) ON `lab`.allTests TO daymend@'%';
GRANT SELECT (id, billing_id, test_id, isCancelled) ON `lab`.labReportRelation TO daymend@'%';
GRANT SELECT (billing_id, sampleType_id, isAccessed) ON `lab`.collectedSample TO daymend@'%';

-- Its own tables. They may not exist yet, and privileges on such a table can only be granted together
-- with CREATE, which is revoked at once. Nobody with these privileges can change or delete entries of
-- the admin log.

GRANT CREATE, SELECT ON `lab`.daymend_schema TO daymend@'%';
REVOKE CREATE ON `lab`.daymend_schema FROM daymend@'%';
GRANT CREATE, SELECT, INSERT, UPDATE, DELETE ON `lab`.daymend_runs TO daymend@'%';
REVOKE CREATE ON `lab`.daymend_runs FROM daymend@'%';
GRANT CREATE, SELECT, INSERT, UPDATE, DELETE ON `lab`.daymend_jobs TO daymend@'%';
REVOKE CREATE ON `lab`.daymend_jobs FROM daymend@'%';
GRANT CREATE, SELECT, INSERT, DELETE ON `lab`.daymend_attempts TO daymend@'%';
REVOKE CREATE ON `lab`.daymend_attempts FROM daymend@'%';
GRANT CREATE, SELECT, INSERT, UPDATE, DELETE ON `lab`.daymend_workers TO daymend@'%';
REVOKE CREATE ON `lab`.daymend_workers FROM daymend@'%';
GRANT CREATE, SELECT, INSERT, UPDATE ON `lab`.daymend_labs TO daymend@'%';
REVOKE CREATE ON `lab`.daymend_labs FROM daymend@'%';
GRANT CREATE, SELECT, INSERT, DELETE ON `lab`.daymend_migrations TO daymend@'%';
REVOKE CREATE ON `lab`.daymend_migrations FROM daymend@'%';
GRANT CREATE, SELECT, INSERT ON `lab`.daymend_admin_log TO daymend@'%';
REVOKE CREATE ON `lab`.daymend_admin_log FROM daymend@'%';
GRANT CREATE, SELECT, INSERT, DELETE ON `lab`.daymend_pauses TO daymend@'%';
REVOKE CREATE ON `lab`.daymend_pauses FROM daymend@'%';
GRANT CREATE, SELECT, INSERT, UPDATE, DELETE ON `lab`.daymend_audits TO daymend@'%';
REVOKE CREATE ON `lab`.daymend_audits FROM daymend@'%';
GRANT CREATE, SELECT, INSERT, DELETE ON `lab`.daymend_audit_days TO daymend@'%';
REVOKE CREATE ON `lab`.daymend_audit_days FROM daymend@'%';
GRANT CREATE, SELECT, INSERT, UPDATE, DELETE ON `lab`.daymend_audit_labs TO daymend@'%';
REVOKE CREATE ON `lab`.daymend_audit_labs FROM daymend@'%';
GRANT CREATE, SELECT, INSERT, DELETE ON `lab`.daymend_dirty TO daymend@'%';
REVOKE CREATE ON `lab`.daymend_dirty FROM daymend@'%';
GRANT CREATE, SELECT, INSERT, UPDATE ON `lab`.daymend_snapshots TO daymend@'%';
REVOKE CREATE ON `lab`.daymend_snapshots FROM daymend@'%';

-- The three tables of the lab system that daymend writes to. Columns can only be granted of tables that
-- exist: if these do not, run `daymend migrate` once this point has been reached, and the file once
-- more. Only `daymend doctor` reads the event log, and when a record was modified.

GRANT SELECT, INSERT, DELETE, UPDATE (event_count, modified_at)
    ON `lab`.operation_historical_summary TO daymend@'%';
GRANT SELECT (id, event_name, status, created_at), INSERT (event_name, status, created_at)
    ON `lab`.operation_event_log TO daymend@'%';
GRANT SELECT (id, lab_id, is_scheduled, job_status, initiated_by_id, migration_type, modified_at),
    INSERT (lab_id, is_scheduled, job_status, initiated_by_id, migration_type, created_at, modified_at),
    UPDATE (is_scheduled, start_date, end_date, job_status, time_taken, modified_at)
    ON `lab`.crelio_data_migrations TO daymend@'%';

-- `daymend snapshot take`, by hand and daily: whole tables, including names and results of patients. It
-- writes nothing. If snapshots are to have other tables, name them here; `--all` needs SELECT on the
-- whole database (GRANT SELECT ON `lab`.* TO …), because MySQL hides what a user has no privilege on.

GRANT SELECT ON `lab`.labs TO daymend_snapshot@'%';
GRANT SELECT ON `lab`.billing TO daymend_snapshot@'%';
GRANT SELECT ON `lab`.billingInfo TO daymend_snapshot@'%';
GRANT SELECT ON `lab`.allTests TO daymend_snapshot@'%';
GRANT SELECT ON `lab`.labReportRelation TO daymend_snapshot@'%';
GRANT SELECT ON `lab`.collectedSample TO daymend_snapshot@'%';
GRANT CREATE, SELECT ON `lab`.operation_historical_summary TO daymend_snapshot@'%';
REVOKE CREATE ON `lab`.operation_historical_summary FROM daymend_snapshot@'%';
GRANT CREATE, SELECT ON `lab`.crelio_data_migrations TO daymend_snapshot@'%';
REVOKE CREATE ON `lab`.crelio_data_migrations FROM daymend_snapshot@'%';

SHOW GRANTS FOR daymend_migrate@'%';
SHOW GRANTS FOR daymend@'%';
SHOW GRANTS FOR daymend_snapshot@'%';
