-- Migration 6: decisions in the order in which they were written, whatever the clock said then.

CREATE TABLE ordered_decisions AS
SELECT * EXCLUDE (run_id, created_at), CAST(NULL AS BIGINT) AS revision, run_id, created_at FROM deployment_decisions;
DROP TABLE deployment_decisions;
ALTER TABLE ordered_decisions RENAME TO deployment_decisions;
ALTER TABLE deployment_decisions ALTER COLUMN archive_id SET NOT NULL;
ALTER TABLE deployment_decisions ALTER COLUMN symbol SET NOT NULL;
ALTER TABLE deployment_decisions ALTER COLUMN timeframe SET NOT NULL;
ALTER TABLE deployment_decisions ALTER COLUMN policy SET NOT NULL;
ALTER TABLE deployment_decisions ALTER COLUMN decision SET NOT NULL;
ALTER TABLE deployment_decisions ALTER COLUMN run_id SET NOT NULL;
ALTER TABLE deployment_decisions ALTER COLUMN created_at SET NOT NULL;
