-- How much of a day a run's jobs may take away, in percent; NULL for any share.
ALTER TABLE daymend_runs ADD COLUMN max_shrink INTEGER NULL;

-- Why a worker holds back for now; NULL where it does not.
ALTER TABLE daymend_workers ADD COLUMN throttled TEXT NULL;
