-- Migration 7: what a plan's folds prove, in its summary.

CREATE TABLE summaries_with_evidence AS
SELECT
    * EXCLUDE (folds_digest, inputs_digest, run_id, created_at),
    CAST(NULL AS INTEGER) AS n_counted, CAST(NULL AS INTEGER) AS n_out_of_sample, CAST(NULL AS INTEGER) AS n_returns,
    CAST(NULL AS DOUBLE) AS counted_return, CAST(NULL AS DOUBLE) AS sharpe, CAST(NULL AS DOUBLE) AS bootstrap_se,
    CAST(NULL AS DOUBLE) AS bootstrap_low, CAST(NULL AS DOUBLE) AS bootstrap_high, CAST(NULL AS DOUBLE) AS p_value,
    CAST(NULL AS INTEGER) AS n_trials, CAST(NULL AS DOUBLE) AS p_value_archive, CAST(NULL AS DOUBLE) AS psr,
    CAST(NULL AS DOUBLE) AS track_record_days, CAST(NULL AS DOUBLE) AS min_track_record_days,
    CAST(NULL AS DOUBLE) AS consistency_ratio, CAST(NULL AS DOUBLE) AS null_percentile,
    CAST(NULL AS DOUBLE) AS null_return, CAST(NULL AS DOUBLE) AS always_long_return,
    CAST(NULL AS DOUBLE) AS always_flat_return, CAST(NULL AS DOUBLE) AS day_late_return,
    CAST(NULL AS DOUBLE) AS lag_return, CAST(NULL AS DOUBLE) AS break_even_cost_bps,
    CAST(NULL AS DOUBLE) AS assumed_cost_bps, CAST(NULL AS VARCHAR) AS evidence,
    CAST(NULL AS VARCHAR[]) AS evidence_reasons, CAST(NULL AS VARCHAR) AS evidence_digest,
    folds_digest, inputs_digest, run_id, created_at
FROM walk_forward_summaries;
DROP TABLE walk_forward_summaries;
ALTER TABLE summaries_with_evidence RENAME TO walk_forward_summaries;
ALTER TABLE walk_forward_summaries ALTER COLUMN archive_id SET NOT NULL;
ALTER TABLE walk_forward_summaries ALTER COLUMN symbol SET NOT NULL;
ALTER TABLE walk_forward_summaries ALTER COLUMN timeframe SET NOT NULL;
ALTER TABLE walk_forward_summaries ALTER COLUMN plan SET NOT NULL;
ALTER TABLE walk_forward_summaries ALTER COLUMN run_id SET NOT NULL;
ALTER TABLE walk_forward_summaries ALTER COLUMN created_at SET NOT NULL;
