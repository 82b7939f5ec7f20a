-- Migration 10: each model beside the one of an earlier archive, on the same bars.

CREATE TABLE champion_comparisons (
    archive_id VARCHAR NOT NULL, symbol VARCHAR NOT NULL, timeframe VARCHAR NOT NULL, as_of TIMESTAMPTZ,
    plan VARCHAR NOT NULL, champion_archive_id VARCHAR, champion_model_sha256 VARCHAR,
    n_folds_compared INTEGER, n_returns INTEGER, challenger_sharpe DOUBLE, champion_sharpe DOUBLE,
    challenger_return DOUBLE, champion_return DOUBLE, challenger_positive_folds INTEGER,
    champion_positive_folds INTEGER, sharpe_difference DOUBLE, difference_se DOUBLE, difference_low DOUBLE,
    difference_high DOUBLE, p_value DOUBLE, verdict VARCHAR, reason VARCHAR, folds_digest VARCHAR,
    inputs_digest VARCHAR, run_id VARCHAR NOT NULL, created_at TIMESTAMPTZ NOT NULL
);
