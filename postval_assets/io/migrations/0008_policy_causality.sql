-- Migration 8: whether each evaluated model sees or does anything that depends on bars after it.

CREATE TABLE policy_causality (
    archive_id VARCHAR NOT NULL, symbol VARCHAR NOT NULL, timeframe VARCHAR NOT NULL, as_of TIMESTAMPTZ NOT NULL,
    n_instants INTEGER, first_ts TIMESTAMPTZ, last_ts TIMESTAMPTZ, n_ties INTEGER, status VARCHAR NOT NULL,
    feature VARCHAR, reason VARCHAR, model_sha256 VARCHAR, feature_set VARCHAR, feature_set_version VARCHAR,
    code_version VARCHAR, inputs_digest VARCHAR, run_id VARCHAR NOT NULL, created_at TIMESTAMPTZ NOT NULL
);
